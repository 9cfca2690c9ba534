"""What is impossible together in one configuration, whatever methods and models there are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

from ttsnap.config._base import COMMIT, Split, is_hub_id

if TYPE_CHECKING:
    from ttsnap.config.run import Config
    from ttsnap.config.splits import SplitSettings

Problem = tuple[tuple[str | int, ...], str]
"""Path of a key, and what is wrong there."""


def problems(config: Config) -> Iterator[Problem]:
    """What is impossible, key by key."""
    yield from _unpinned(config)
    yield from _negtome_problems(config)
    device, processes = config.runtime.device, config.runtime.processes
    if processes > 1 and device not in ("auto", "cpu", "cuda"):
        text = f"{device} is for one process, not {processes}; expected auto, cuda or cpu"
        yield ("runtime", "device"), text
    for name, reward in config.rewards.items():
        single = [key for key, other in config.rewards.items() if other.kind != "ensemble"]
        for member in reward.members:
            if member not in single:
                text = f"is no reward to build on, which are {', '.join(single) or 'none here'}"
                yield ("rewards", name, "options", "rewards", member), text
    yield from _split_problems(config)
    yield from _step_problems(config)
    for place, budgets in [
        (("simulation", "budgets"), config.simulation.budgets),
        (("search", "budgets"), config.search.budgets),
    ]:
        for index, text in _disorder(budgets):
            yield (*place, index), text
    for index, method in enumerate(config.search.methods):
        if method in config.search.methods[:index]:
            yield ("search", "methods", index), f"{method} is listed twice"
    if config.draft and config.draft.steps >= (steps := config.sampling.steps):
        text = f"a draft of {config.draft.steps} steps is no cheap look at a run of {steps}"
        yield ("draft", "steps"), text
    if config.model.autocast == "bfloat16" and config.model.dtype in ("float16", "bfloat16"):
        yield ("model", "autocast"), f"is for float32, and model.dtype is {config.model.dtype}"
    if config.costs.preview is not None and config.model.preview is None:
        yield ("costs", "preview"), "is the price of a decoder that model.preview does not name"
    named = [(("search", "reward"), config.search.reward)]
    named += [(("costs", "rewards"), name) for name in config.costs.rewards]
    named += [(("narf", "learning_rates"), name) for name in config.narf.learning_rates]
    if judge := config.search.judge_reward:
        named.append((("search", "judge_reward"), judge))
        if judge == config.search.reward:
            yield ("search", "judge_reward"), f"{judge} is the reward that searches; name another"
    for place, name in named:
        if name not in config.rewards:
            yield place, f"{name} is none of the rewards ({', '.join(config.rewards)})"


def _unpinned(config: Config) -> Iterator[Problem]:
    """Hub ids without a commit: what a branch or a tag names can change."""
    model = config.model
    sources: dict[tuple[str | int, ...], Any] = {("model",): model}
    if model.preview is not None:
        sources["model", "preview"] = model.preview
    if model.vae is not None:
        sources["model", "vae"] = model.vae
    sources |= {("model", "loras", index): lora for index, lora in enumerate(model.loras)}
    sources |= {("rewards", name): reward for name, reward in config.rewards.items()}
    repository, _, commit = (model.components or "").partition("@")
    if is_hub_id(repository) and not re.fullmatch(COMMIT, commit):
        text = f"{model.components} must name a folder that exists, or end with @ and its commit"
        yield ("model", "components"), text
    for index, lora in enumerate(model.loras):
        if lora.weight is None and is_hub_id(lora.path):
            yield ("model", "loras", index, "weight"), f"must name the file in {lora.path}"
    for place, source in sources.items():
        if source.path is None or not is_hub_id(source.path):
            continue
        if not re.fullmatch(COMMIT, source.revision or ""):
            text = (
                f"must be the commit of {source.path}, which is no local folder but a hub id; "
                f"expected 40 hexadecimal digits, as https://huggingface.co/{source.path}"
                f"/commits/main lists them, not {source.revision or 'nothing'}"
            )
            yield (*place, "revision"), text


def _negtome_problems(config: Config) -> Iterator[Problem]:
    settings, place = config.sampling.negtome, ("sampling", "negtome")
    if settings is None:
        return
    if settings.t_end > settings.t_start:
        text = f"{settings.t_end:g} is above t_start {settings.t_start:g}; timesteps fall"
        yield (*place, "t_end"), text
    if settings.reference >= settings.group:
        text = f"{settings.reference} is none of a group of {settings.group}, counted from 0"
        yield (*place, "reference"), text
    if config.runtime.compile:
        yield ("runtime", "compile"), "cannot be combined with sampling.negtome"
    whole = f"sampling.negtome.group, {settings.group}"
    if config.runtime.batch_size < settings.group:
        text = f"{config.runtime.batch_size} is less than {whole}, whose images run together"
        yield ("runtime", "batch_size"), text
    for name, split in _splits(config):
        if split.images % settings.group:
            yield ("splits", name, "images"), f"{split.images} is no multiple of {whole}"


def _splits(config: Config) -> list[tuple[Split, SplitSettings]]:
    splits = config.splits
    return [("train", splits.train), ("val", splits.val), ("test", splits.test)]


def _split_problems(config: Config) -> Iterator[Problem]:
    for name, split in _splits(config):
        if split.stop <= split.start:
            yield ("splits", name, "stop"), f"{split.stop} is not above start {split.start}"
    for (name, split), (other_name, other) in combinations(_splits(config), 2):
        same_file = os.path.normpath(split.file) == os.path.normpath(other.file)
        if same_file and split.start < other.stop and other.start < split.stop:
            text = (
                f"prompts {other.start} to {other.stop} overlap with those of splits.{name}, "
                f"{split.start} to {split.stop} of the same file"
            )
            yield ("splits", other_name), text


def _step_problems(config: Config) -> Iterator[Problem]:
    """Step indices that are out of range or order, or needed but not stored."""
    last = config.sampling.steps - 1
    lists = [(("splits", name, "steps"), split.steps or []) for name, split in _splits(config)]
    for place, steps in [*lists, (("narf", "steps"), config.narf.steps)]:
        for index, step in enumerate(steps):
            if step > last:
                yield (*place, index), f"{step} is beyond the last step {last}"
        for index, text in _disorder(steps):
            yield (*place, index), text

    checks = [check.step for check in config.simulation.checks or []]
    for index, step in enumerate(checks):
        if step >= last:
            text = f"{step} is beyond the last useful step {last - 1} of {last + 1} steps"
            yield ("simulation", "checks", index, "step"), text
    for index, text in _disorder(checks):
        yield ("simulation", "checks", index, "step"), text

    readers: dict[Split, tuple[str, list[int]]] = {
        "train": ("narf.steps", config.narf.steps),
        "val": ("narf.steps", config.narf.steps),
        "test": ("simulation.checks", checks),
    }
    for name, split in _splits(config):
        reader, wanted = readers[name]
        stored = range(last) if split.steps is None else split.steps
        if lacking := sorted(step for step in {*wanted} - {*stored} if step < last):
            text = f"lacks {', '.join(map(str, lacking))}, needed by {reader}"
            yield ("splits", name, "steps"), text


def _disorder(values: Sequence[float]) -> Iterator[tuple[int, str]]:
    for index, (before, after) in enumerate(pairwise(values), start=1):
        if after <= before:
            yield index, f"{after:g} does not follow {before:g}; the values must increase"
