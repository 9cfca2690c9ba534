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
from ttsnap.diffusion import VIDEOS
from ttsnap.diffusion.sources import weight_files, with_family
from ttsnap.errors import UserError
from ttsnap.run.fetch import missing
from ttsnap.store.files import check_writable, place
from ttsnap.prompts import load_splits, prompts_hash
from ttsnap.rewards import is_trainable
from ttsnap.searching.methods import METHODS
from ttsnap.searching.setup import looks_by_narf, method_options, prunes
from ttsnap.run.status import SETTINGS

update_config(config, typed(workflow.config_settings.overwrite_config))
try:
    CONFIG = load_config(config)
    CONFIG = CONFIG.model_copy(update={"model": with_family(CONFIG.model)})
    if CONFIG.model.family in VIDEOS:
        raise UserError(
            f"model.family: {CONFIG.model.family} makes videos, whose steps are not stored; "
            "search them live by `ttsnap search`"
        )
    REWARDS = CONFIG.pipeline_rewards
    for name in REWARDS:
        if not is_trainable(CONFIG.rewards[name], name):
            raise UserError(
                f"rewards.{name}: kind {CONFIG.rewards[name].kind} cannot be finetuned, as all but "
                "search.judge_reward are; search by it with `ttsnap search`"
            )
    PROMPTS = load_splits(CONFIG.splits)
    for name, given in CONFIG.search.options.items():
        planned = {"schedule": "-"} if prunes(METHODS[name]) else {}
        method_options(METHODS[name], planned | given)
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
JUDGE = CONFIG.rewards.get(CONFIG.search.judge_reward)
# Site matters reach the jobs through the environment, where Snakemake does not track them.
os.environ.update(TTSNAP_RUNTIME=CONFIG.runtime.model_dump_json(), HF_HUB_OFFLINE="1")
GPU = 0 if CONFIG.runtime.device == "cpu" else 1


wildcard_constraints:
    split="|".join(SPLITS),
    reward="|".join(REWARDS),
    kind="base|finetuned",
    method="|".join(map(re.escape, CONFIG.search.methods)),
    block=r"\d{4}",
    step=r"\d{2}",


def scaled(amount):
    """A resource that grows with every attempt."""
    return lambda wildcards, attempt: attempt * amount


def weights(*paths):
    """The weight files of local models; a hub id is pinned by its revision instead."""
    files = {file for path in paths for file in [Path(path), *Path(path).rglob("*")]}
    return sorted(
        file.as_posix() for file in files if file.suffix in (".safetensors", ".pt", ".pth")
    )


def places(settings):
    """What may be local files or folders among the nested settings of a reward."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from places(value)
        elif isinstance(value, str) and (key == "path" or "/" in value):
            yield value


def weights_of(reward):
    """Weight files of a reward: its model, and what its options name."""
    return weights(*places(CONFIG.rewards[reward].model_dump()))


def reward_weights(wildcards):
    return weights_of(wildcards.reward)


def environment(usual, *rewards):
    """The conda environment of a job that scores with some rewards: ImageReward has its own."""
    kinds = {kind for name in rewards for kind in CONFIG.rewards[name].kinds}
    return f"../envs/{'image-reward' if 'image-reward' in kinds else usual}.yaml"


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


def trajectory_receipts(split):
    per_job = getattr(CONFIG.splits, split).prompts_per_job
    blocks = block_names(len(PROMPTS[split]), per_job)
    return [f"{RUN}/trajectories/{split}/block_{block}.json" for block in blocks]


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


def checkpoint_receipts(reward):
    return [f"{RUN}/narf/{reward}/step_{step:02d}.json" for step in CONFIG.narf.steps]


def cleaner_checkpoint(wildcards):
    """Receipt of the checkpoint that a NARF step starts from; none for the cleanest."""
    cleaner = [step for step in CONFIG.narf.steps if step > int(wildcards.step)]
    return [f"{RUN}/narf/{wildcards.reward}/step_{min(cleaner):02d}.json"] if cleaner else []


def figure(name, category, caption):
    """A figure of the run, and its place in the report."""
    return report(
        f"{RUN}/report/{name}", category=category, caption=f"../workflow/report/{caption}"
    )


def repeated(option, values):
    """An option given once for each value."""
    return " ".join(f"{option} {shlex.quote(str(value))}" for value in values)


def source_hash(*sources):
    """Hash of a cheap stage's sources (glob patterns), which re-run it when they change."""
    files = sorted(file for source in sources for file in Path(workflow.basedir).glob(source))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
