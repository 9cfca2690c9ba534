# Figures and numbers of a run; `snakemake --report FILE.html` binds them into one page.
REWARD = CONFIG.search.reward


rule report:
    message:
        "Draw the figures and sum up"
    input:
        model=rules.model.output,
        trajectories=trajectory_receipts("test"),
        costs=expand(f"{RUN}/rewards/{{reward}}/cost.json", reward=REWARDS),
        checkpoints=checkpoint_receipts(REWARD),
        tensors=expand(
            f"{RUN}/tensors/{REWARD}/test.{{kind}}.json", kind=["base", "finetuned"]
        ),
        evaluation=expand(f"{RUN}/evaluation/{{reward}}.csv", reward=REWARDS),
        curves=expand(f"{RUN}/simulation/{{reward}}/curves.csv", reward=REWARDS),
        search=expand(
            f"{RUN}/search/{{method}}/block_{{block}}.parquet",
            method=CONFIG.search.methods,
            block=block_names(len(PROMPTS["test"]), CONFIG.search.prompts_per_job),
        ),
    output:
        summary=f"{RUN}/summary.json",
