"""ttsnap: from a prompt file to a noise-aware reward, a pruning schedule and a better image.

`snakemake --cores 2` runs config/config.yaml; `--configfile FILE` runs another configuration, with
the defaults of ttsnap/config where it is silent; `--config KEY=VALUE` changes single settings.
"""

from snakemake.utils import min_version

min_version("9.0")


if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/trajectories.smk"
include: "rules/rewards.smk"
include: "rules/narf.smk"
include: "rules/simulate.smk"
include: "rules/search.smk"
include: "rules/report.smk"


onstart:
    Path(RUN).mkdir(parents=True, exist_ok=True)
    Path(RUN, SETTINGS).write_text(CONFIG.model_dump_json(indent=2))


rule all:
    default_target: True
    input:
        lambda wildcards: (
            # All of them: settings say which figures there are, and one that is new is missing.
            checkpoints.mended.get().output
            if lost_receipts()
            else [*rules.report.output, *rules.page.output]
        ),
    localrule: True


# Snakemake redoes whatever follows from a job in the same run, even if its output came out the
# same. After a checkpoint it looks at the outputs again.
checkpoint mended:
    input:
        lambda wildcards: lost_receipts(),
    output:
        touch(f"{RUN}/trajectories/mended"),
    localrule: True
    message:
        "See what follows from the blocks that were generated again"
