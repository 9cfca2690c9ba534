"""What a run consists of: its jobs stage by stage, and what they compute and store.

All of it follows from the configuration, so that `ttsnap estimate` tells it before a run and
`ttsnap status` during one. Numbers of jobs are those of the rules in ``rules/``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ttsnap.rewards.tensor import blocks_per_job
from ttsnap.schedule import look_suffixes
from ttsnap.store.trajectories import steps_per_shard

if TYPE_CHECKING:
    from ttsnap.config import Config, Split, SplitSettings

TRAINING = 3  # passes that a training step costs: forward, and backward twice that


@dataclass(frozen=True)
class Job:
    """A job's last file, whose presence means that it is done, and its benchmark.

    Both are relative to the folder of the run.
    """

    output: str
    benchmark: str


@dataclass(frozen=True)
class Prices:
    """TFLOPs of one denoiser evaluation with its guidance, a decode, and a score by reward."""

    denoise: float
    decode: float
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Stage:
    """Jobs of one kind.

    Attributes:
        name: the rule, and what it is about.
        jobs: all of them.
        count: images or searches that they go through together; 0 where none.
        unit: which of them.
        evaluations, decodes: of the denoiser and of the decoder; those of drafts count in full,
            with guidance or without.
        reward: whose scores are counted.
        scores: images scored, a training step as ``TRAINING`` of them.
        budget: TFLOPs that searches may spend.
        bytes: of images and reward tensors before compression.
        stored: files that stay beside each job's output, log and benchmark.
    """

    name: str
    jobs: list[Job]
    count: int = 0
    unit: str = "images"
    evaluations: int = 0
    decodes: int = 0
    reward: str | None = None
    scores: int = 0
    budget: float = 0.0
    bytes: int = 0
    stored: int = 0

    def tflops(self, prices: Prices) -> float:
        """What all jobs compute with the models; searches count as much as they may spend."""
        scored = self.scores * prices.scores[self.reward] if self.reward else 0.0
        made = self.evaluations * prices.denoise + self.decodes * prices.decode
        return made + scored + self.budget

    @property
    def row(self) -> str:
        """Its row in short tables: splits of trajectories have their own, rewards share one."""
        rule = self.name.split()[0]
        return self.name if rule == "trajectories" else rule

    @property
    def files(self) -> int:
        """Files that stay."""
        return 3 * len(self.jobs) + self.stored


def workload(config: Config) -> list[Stage]:
    """The stages of a run, in the order in which they can start."""
    return list(_stages(config))


def _stages(config: Config) -> Iterator[Stage]:
    sampling, narf, search = config.sampling, config.narf, config.search
    splits: dict[Split, SplitSettings] = {
        "train": config.splits.train,
        "val": config.splits.val,
        "test": config.splits.test,
    }
    images = {name: (split.stop - split.start) * split.images for name, split in splits.items()}
    steps = {name: len(split.stored(sampling.steps)) for name, split in splits.items()}
    blocks = {
        name: math.ceil((split.stop - split.start) / split.prompts_per_job)
        for name, split in splits.items()
    }
    pixels = sampling.height * sampling.width * 3
    looks = look_suffixes(config.model.looks)

    yield Stage("model", [_job("model.json")])
    for name, split in splits.items():
        yield Stage(f"trajectory_store {name}", [_job(f"trajectories/{name}/init.json")], stored=7)
        block_bytes = split.prompts_per_job * split.images * pixels
        yield Stage(
            f"trajectories {name}",
            [_job(f"trajectories/{name}/block_{block:04d}.json") for block in range(blocks[name])],
            count=images[name],
            evaluations=images[name] * sampling.steps,
            decodes=images[name] * steps[name],
            bytes=images[name] * steps[name] * pixels,
            # A record of the block lies beside the store; latents have shards of their own.
            stored=blocks[name]
            * (1 + len(looks) * math.ceil(steps[name] / steps_per_shard(steps[name], block_bytes))),
        )
    if config.model.linear_preview:
        yield Stage("preview", [_job("preview.json")])
    for reward in config.pipeline_rewards:
        yield Stage(f"reward_cost {reward}", [_job(f"rewards/{reward}/cost.json")])
        yield Stage(f"budgets {reward}", [_job(f"rewards/{reward}/budgets.json")])
        for name in ("train", "val"):
            yield Stage(
                f"rewards {reward} {name}",
                [_job(f"rewards/{reward}/{name}.parquet")],
                count=images[name],
                reward=reward,
                scores=images[name],
            )
        for look in looks:
            seen = f"{reward}{look}"
            trained = narf.epochs * images["train"]
            yield Stage(
                f"narf {seen}",
                [_job(f"narf/{seen}/step_{step:02d}.json") for step in reversed(narf.steps)],
                count=len(narf.steps) * trained,
                reward=reward,
                scores=len(narf.steps) * (TRAINING * trained + (narf.epochs + 1) * images["val"]),
                stored=3 * len(narf.steps),
            )
            for name in ("val", "test"):
                for kind, scored in (("base", steps[name]), ("finetuned", len(narf.steps))):
                    tensor = f"tensors/{seen}/{name}.{kind}"
                    per_job = blocks_per_tensor_job(splits[name], sampling.steps)
                    jobs = math.ceil(blocks[name] / per_job)
                    parts = [f"{tensor}/block_{job:04d}.npy" for job in range(jobs) if jobs > 1]
                    yield Stage(
                        f"tensor {seen} {name}.{kind}",
                        [_job(output) for output in (*parts, f"{tensor}.json")],
                        count=images[name] * scored,
                        reward=reward,
                        scores=images[name] * scored,
                        bytes=images[name] * steps[name] * 4,
                        stored=7,
                    )
            yield Stage(f"evaluate {seen}", [_job(f"evaluation/{seen}.csv")])
        if config.draft:
            for name in ("val", "test"):
                folder = f"drafts/{reward}/{name}"
                yield Stage(
                    f"drafts {reward} {name}",
                    [_job(f"{folder}/block_{block:04d}.json") for block in range(blocks[name])],
                    count=images[name],
                    evaluations=images[name] * config.draft.steps,
                    decodes=images[name],
                    reward=reward,
                    scores=images[name],
                    stored=blocks[name],
                )
        yield Stage(f"plan {reward}", [_job(f"plan/{reward}.json")])
        curves = f"simulation/{reward}/curves.csv"
        yield Stage(f"simulate {reward}", [Job(curves, f"benchmarks/simulation/{reward}.jsonl")])
    prompts = splits["test"].stop - splits["test"].start
    searches = range(math.ceil(prompts / search.prompts_per_job))
    for method in search.methods:
        yield Stage(
            f"search {method}",
            [_job(f"search/{method}/block_{block:04d}.parquet") for block in searches],
            count=prompts * len(search.budgets),
            unit="searches",
            budget=prompts * sum(search.budgets) if config.costs.unit == "TFLOPs" else 0.0,
            stored=2 * prompts * len(search.budgets),
        )
    yield Stage("report", [Job("summary.json", "benchmarks/report.jsonl")])
    yield Stage("page", [Job("report.html", "benchmarks/page.jsonl")])


def blocks_per_tensor_job(split: SplitSettings, steps: int) -> int:
    """Blocks of a split, of trajectories of ``steps`` steps, that one job scores at all stored."""
    return blocks_per_job(split.prompts_per_job, split.images, len(split.stored(steps)))


def _job(output: str) -> Job:
    return Job(output, f"benchmarks/{PurePosixPath(output).with_suffix('.jsonl')}")
