# The few names that all the other files here use.
import hashlib
import json
import math
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config

sys.path.insert(0, str(workflow.basedir))

from ttsnap.config import load_config, typed
from ttsnap.diffusion.sources import with_family
from ttsnap.errors import UserError
from ttsnap.prompts import load_splits, prompts_hash
from ttsnap.report import GALLERY
from ttsnap.run.check import check
from ttsnap.run.fetch import missing
from ttsnap.run.status import SETTINGS
from ttsnap.run.weights import Weights, weight_files
from ttsnap.searching.methods import METHODS
from ttsnap.run.workload import blocks_per_tensor_job
from ttsnap.schedule import AT_PREVIEWS, look_suffixes, split_look
from ttsnap.store.files import check_writable, place

update_config(config, typed(workflow.config_settings.overwrite_config))
try:
    CONFIG = load_config(config)
    CONFIG = CONFIG.model_copy(update={"model": with_family(CONFIG.model)})
    check(CONFIG, workflow=True)
    PROMPTS = load_splits(CONFIG.splits)
    stores = place(CONFIG.store("test")).parent
    # A dry run queues nothing, and is to be had before anything is downloaded.
    if not workflow.output_settings.dryrun:
        if lacking := list(missing(CONFIG)):
            raise UserError("\n".join(lacking))
        if workflow.is_main_process:
            check_writable(stores)
except UserError as error:
    raise WorkflowError(str(error)) from None

RUN = f"{CONFIG.results}/{CONFIG.run}"
SPLITS = list(PROMPTS)
REWARDS = CONFIG.pipeline_rewards
# How checks see estimates: what ends the names of rewards that do so in another than the first way.
LOOKS = look_suffixes(CONFIG.model.looks)
JUDGE = CONFIG.rewards.get(CONFIG.search.judge_reward)
# Site matters reach the jobs through the environment, where Snakemake does not track them.
os.environ.update(TTSNAP_RUNTIME=CONFIG.runtime.model_dump_json(), HF_HUB_OFFLINE="1")
GPU = 0 if CONFIG.runtime.device == "cpu" else 1


wildcard_constraints:
    split="|".join(SPLITS),
    reward="|".join(REWARDS),
    look=f"({AT_PREVIEWS})?",
    kind="base|finetuned",
    method="|".join(map(re.escape, CONFIG.search.methods)),
    block=r"\d{4}",
    step=r"\d{2}",


def scaled(amount):
    """A resource that grows with every attempt."""
    return lambda wildcards, attempt: attempt * amount


WEIGHTS = Weights(Path(".snakemake/weights.json"))


def weights(*sections):
    """The parameter that follows the contents of local weights of settings; none without any."""
    if any(map(weight_files, sections)):
        return {"weights": lambda wildcards: WEIGHTS.of(*sections)}
    return {}


def reward_weights():
    """The same for a rule about any one reward."""
    if any(weight_files(CONFIG.rewards[name]) for name in REWARDS):
        return {"weights": lambda wildcards: WEIGHTS.of(CONFIG.rewards[wildcards.reward])}
    return {}


def environment(usual, *rewards):
    """The conda environment of a job that scores with some rewards: one kind has its own."""
    kinds = {kind for name in rewards for kind in CONFIG.rewards[name].kinds}
    return f"../envs/{'image-reward' if 'image-reward-package' in kinds else usual}.yaml"


def leaves(**chosen):
    """Exactly the settings a stage reads, as the JSON it is given and Snakemake tracks."""
    plain = {
        key: value.model_dump(mode="json") if hasattr(value, "model_dump") else value
        for key, value in chosen.items()
    }
    return json.dumps(plain, sort_keys=True)


def block_names(count, per_job):
    return [f"{block:04d}" for block in range(math.ceil(count / per_job))]


def block_prompts(split, block):
    per_job = getattr(CONFIG.splits, split).prompts_per_job
    return PROMPTS[split][int(block) * per_job : (int(block) + 1) * per_job]


def split_blocks(split):
    """Names of the blocks of a split's store."""
    return block_names(len(PROMPTS[split]), getattr(CONFIG.splits, split).prompts_per_job)


def trajectory_receipts(split):
    return [f"{RUN}/trajectories/{split}/block_{block}.json" for block in split_blocks(split)]


def lost_receipts():
    """Receipts of stores that were there once, such as those that `ttsnap repair` took away."""
    names = [
        os.path.relpath(receipt, RUN).removesuffix(".json")
        for split in SPLITS
        for receipt in [f"{RUN}/trajectories/{split}/init.json", *trajectory_receipts(split)]
    ]
    return [
        f"{RUN}/{name}.json"
        for name in names
        if not os.path.exists(f"{RUN}/{name}.json")
        and os.path.exists(f"{RUN}/benchmarks/{name}.jsonl")
    ]


def checkpoint_receipts(reward, look=""):
    return [f"{RUN}/narf/{reward}{look}/step_{step:02d}.json" for step in CONFIG.narf.steps]


def cleaner_checkpoint(wildcards):
    """Receipt of the checkpoint that a NARF step starts from; none for the cleanest."""
    cleaner = [step for step in CONFIG.narf.steps if step > int(wildcards.step)]
    folder = f"{RUN}/narf/{wildcards.reward}{wildcards.look}"
    return [f"{folder}/step_{min(cleaner):02d}.json"] if cleaner else []


def preview_receipt(wildcards):
    """Receipt of the preview that estimates are seen by; none where they are decoded."""
    return [f"{RUN}/preview.json"] if wildcards.look else []


def preview_option(wildcards, input):
    return repeated("--preview", input.preview)


def tensor_jobs(split):
    """Receipts of trajectories, by the job that scores them."""
    per_job = blocks_per_tensor_job(getattr(CONFIG.splits, split), CONFIG.sampling.steps)
    receipts = trajectory_receipts(split)
    return [receipts[start : start + per_job] for start in range(0, len(receipts), per_job)]


def tensor_blocks(wildcards):
    """Scores that a tensor is put together from; none where one job scores the whole split."""
    jobs = len(tensor_jobs(wildcards.split))
    folder = f"{RUN}/tensors/{wildcards.reward}{wildcards.look}/{wildcards.split}.{wildcards.kind}"
    return [f"{folder}/block_{block:04d}.npy" for block in range(jobs) if jobs > 1]


def tensor_gpu(wildcards):
    return 0 if tensor_blocks(wildcards) else GPU


def tensor_checkpoints(wildcards):
    if wildcards.kind == "base":
        return []
    return checkpoint_receipts(wildcards.reward, wildcards.look)


def tensors(reward, split, kind):
    """Receipts of the tensors of a reward, one for each look."""
    return [f"{RUN}/tensors/{reward}{look}/{split}.{kind}.json" for look in LOOKS]


def draft_receipts(reward, split):
    """Receipts of the rewards of drafts; none where there are no drafts."""
    if CONFIG.draft is None:
        return []
    return [f"{RUN}/drafts/{reward}/{split}/block_{block}.json" for block in split_blocks(split)]


def method_of(name):
    """A method and, of those that prune, the look at estimates that its name ends in."""
    method, look = split_look(name)
    return METHODS[method], look


def search_checkpoints(wildcards):
    """Checkpoints that a method's plan may want."""
    method, look = method_of(wildcards.method)
    if not method.looks_by_narf:
        return []
    looks = [look] if look else LOOKS
    return [path for one in looks for path in checkpoint_receipts(CONFIG.search.reward, one)]


def search_preview(wildcards):
    """Receipt of the preview that a method's plan may want."""
    method, look = method_of(wildcards.method)
    wanted = look or (CONFIG.model.linear_preview and method.looks_by_narf)
    return [f"{RUN}/preview.json"] if wanted else []


def search_plan(wildcards):
    """The plan of a method that prunes."""
    method, _ = method_of(wildcards.method)
    return [f"{RUN}/plan/{CONFIG.search.reward}.json"] if method.prunes else []


def figure(name, category, caption):
    """A figure of the run, and its place in the report."""
    return report(
        f"{RUN}/report/{name}", category=category, caption=f"../workflow/report/{caption}"
    )


def repeated(option, values):
    """An option given once for each value."""
    return " ".join(f"{option} {shlex.quote(str(value))}" for value in values)


def experiment_options(wildcards, input):
    """Receipts of what is planned and simulated on."""
    names = ("base", "finetuned", "drafts")
    return " ".join(repeated(f"--{name}", getattr(input, name)) for name in names)


def source_hash(*sources):
    """Hash of a cheap stage's sources (glob patterns), which re-run it when they change."""
    files = sorted(file for source in sources for file in Path(workflow.basedir).glob(source))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
