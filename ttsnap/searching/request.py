"""From what a user writes to what a search is given; shared by command, stage and notebook.

All of it is checked without loading a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import yaml
from pydantic import ValidationError

from ttsnap.config import HUB_ID, RewardSettings, Scheduler
from ttsnap.diffusion.sources import split
from ttsnap.errors import UserError, did_you_mean
from ttsnap.plans import Shipped, reward_name, shipped_schedule
from ttsnap.rewards import KINDS, find_kind, require_kind
from ttsnap.schedule import CostModel, planned_schedule
from ttsnap.searching.budget import WHOLE_IMAGES, Budget
from ttsnap.searching.methods import METHODS, Method, MethodOptions

if TYPE_CHECKING:
    from ttsnap.diffusion.sampler import Sampler

BESIDE = {
    "hpsv2": {
        "clip": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K@1c2b8495b28150b8a4922ee1c8edee224c284c0c"
    },
    "image-reward": {
        "tokenizer": "google-bert/bert-base-uncased@86b5e0934494bd15c9632b12f734a8a67f723594"
    },
}
"""Kind of reward -> options with what its checkpoint lacks, where only a path is given."""

PICKSCORE = "clip:yuvalkirstain/PickScore_v1@a4e4367c6dfa7288a00c550414478f865b875800"
"""What judges by default: it knows pictures of any kind, the embedded world's reward its own."""


def method_named(name: str) -> Method:
    """The search method of this name.

    Raises:
        UserError: there is none; suggests the nearest.
    """
    if name not in METHODS:
        hint = did_you_mean(name, METHODS) or f"; expected one of {', '.join(METHODS)}"
        raise UserError(f"method {name}: unknown{hint}")
    return METHODS[name]


def method_options(method: Method, given: Mapping[str, Any]) -> MethodOptions:
    """The settings of ``method`` with ``given`` in place of their defaults.

    Raises:
        UserError: it has no such setting, one that it must have is missing, or a value is no good.
    """
    known = method.options.model_fields
    try:
        return method.options.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        match first["type"]:
            case "extra_forbidden":
                words = f"has no option {name}; it has {', '.join(known) or 'none'}"
            case "missing":
                words = f"needs {name}: {known[name].description}"
            case _:
                words = f"{name}: {first['msg']}, not {first['input']!r}"
        raise UserError(f"method {method.name}: {words}") from None


def open_options(method: Method, given: Mapping[str, Any]) -> MethodOptions:
    """Like :func:`method_options`, of a method whose schedule may be still to come.

    Raises:
        UserError: as there, but for a schedule that is missing.
    """
    return method_options(method, ({"schedule": ""} if method.prunes else {}) | dict(given))


def usual_budget(costs: CostModel) -> Budget:
    """What a search may cost where nobody says: ``WHOLE_IMAGES`` finished images."""
    return Budget(WHOLE_IMAGES * costs.cost(1), costs.unit)


def shipped_for(
    family: str,
    rewards: Sequence[RewardSettings | None],
    sampler: Sampler,
    costs: CostModel,
    budget: Budget,
) -> Shipped:
    """The schedule that ships for a model and what judges, see ``ttsnap.plans``.

    Args:
        family: of the model.
        rewards: settings of each; None of one that has none, such as a function.
        sampler: whose steps it is for.
        costs: in the unit of the budget.
        budget: of a prompt.
    """
    (single, *others) = rewards
    known = None if single is None or others else reward_name(single)
    return shipped_schedule(family, known, sampler.sigmas.tolist(), costs, budget.value)


def planned(
    plan: Mapping[str, Any],
    verified: bool,
    budget: float,
    reward: str,
    costs: CostModel,
    look: str = "",
) -> tuple[str, dict[str, Any]]:
    """What a plan chose for a method that prunes.

    Args:
        plan: of :func:`ttsnap.schedule.read_plan`.
        verified: whether NARF checkpoints are at hand, which are TTSnap's.
        budget: in the unit of ``costs``.
        reward: that prunes, or ``joint``.
        costs: of the sampler that is to run it.
        look: ``@preview`` if checks are to see previews. Without it TTSp sees decodes, and TTSnap
            what the plan finds best.

    Returns:
        The strategy to run, such as ``ttsp@preview``, and its schedule as an option of the method,
        with what a draft is if it looks at drafts.

    Raises:
        UserError: see :func:`ttsnap.schedule.planned_schedule`.
    """
    strategy = "ttsnap" if verified else "ttsp"
    if not look and strategy == "ttsnap":
        known = {one["strategy"] for one in plan["plans"]}
        strategy = "best" if "best" in known else strategy
    strategy += look
    run, schedule = planned_schedule(plan, strategy, budget, reward=reward, costs=costs)
    options: dict[str, Any] = {"schedule": str(schedule)}
    if schedule.drafted:
        if not plan.get("draft"):
            raise UserError(
                "plan: looks at drafts and does not say what a draft is, as that of a run with "
                "`draft:` in its configuration does"
            )
        options |= {f"draft_{name}": value for name, value in plan["draft"].items()}
    return run, options


def check_options(options: MethodOptions, steps: int) -> None:
    """See that a schedule fits a sampler of as many steps.

    Raises:
        UserError: it does not.
    """
    options.checks(steps)


def check_scheduler(method: Method, sampler: Sampler) -> None:
    """See that a scheduler that was asked for, not chosen for the method, is one that it can use.

    Raises:
        UserError: the method searches noise that the scheduler does not add.
    """
    if method.needs_noise and not sampler.stochastic:
        raise UserError(
            f"method {method.name}: searches the noise of the steps and needs a stochastic "
            "scheduler; leave out the one that was asked for, or ask for another"
        )


def check_plan(plan: Mapping[str, Any], verified: bool, reward: str, steps: int) -> None:
    """See that a plan has something for a search, whatever the prices turn out to be.

    Raises:
        UserError: see :func:`ttsnap.schedule.planned_schedule`.
    """
    costs = CostModel(**plan["costs"], steps=steps)
    planned(plan, verified, costs.cost(1), reward, costs)


def check_reward(settings: RewardSettings, name: str) -> None:
    """See that a reward can be loaded and searched by, as far as that shows without loading it.

    Raises:
        UserError: its kind cannot be imported, its path is neither a folder nor a hub id, or it
            ranks what it is given together, which is a batch and not the whole search.
    """
    if settings.kind not in KINDS:  # which are there, and import torch
        find_kind(settings.kind, f"rewards.{name}.kind")
    path = settings.path
    if path is not None and not Path(path).exists() and not re.fullmatch(HUB_ID, path):
        raise UserError(f"rewards.{name}.path: {path} is neither a local path nor a hub id")
    if settings.kind == "ensemble" and settings.options.get("by") == "rank":
        raise UserError(by_rank(name, settings.members))


def by_rank(name: str, members: Iterable[str]) -> str:
    """Why an ensemble that sums ranks cannot search."""
    return (
        f"reward {name}: sums ranks within a batch, which mean nothing in the next one; search by "
        f"its members at once, --reward {','.join(members)}, whose ranks are summed over all "
        "candidates"
    )


def check_whole(name: str, value: Any, least: int) -> None:
    """Refuse what is no whole number, or too small a one.

    Raises:
        UserError: naming it.
    """
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or index(value) < least:
        raise UserError(f"{name}: expected a whole number of {least} or more, not {value!r}")


def read_options(given: Sequence[str]) -> dict[str, Any]:
    """What ``key=value`` texts say; values are read as YAML, so that 4 is a number.

    Raises:
        UserError: one is no ``key=value``.
    """
    options = {}
    for text in given:
        key, equals, value = text.partition("=")
        try:
            read = yaml.safe_load(value)
            # YAML takes 4:0.5 for a number to the base of 60.
            options[key.strip()] = value if ":" in value and isinstance(read, float) else read
        except yaml.YAMLError:
            equals = ""
        if not equals:
            raise UserError(f"{text!r}: expected KEY=VALUE")
    return options


def read_scheduler(text: str) -> Scheduler:
    """The scheduler that ``NAME`` or ``NAME,key=value,…`` describes.

    Raises:
        UserError: it describes none.
    """
    name, *options = text.split(",")
    try:
        return Scheduler(name=name.strip(), options=read_options(options))
    except ValidationError:
        raise UserError(
            f"scheduler {text!r}: expected a class of diffusers with its options, as in "
            "DDIMScheduler,eta=1"
        ) from None


def read_reward(text: str) -> tuple[str, dict[str, Any]]:
    """Name and settings of a reward given as ``KIND[:PATH[@COMMIT]]`` or ``MODULE:CLASS``.

    The name is the last part of the path, or the kind, or the class.

    Raises:
        UserError: there is no such kind.
    """
    kind, _, place = text.partition(":")
    if kind not in KINDS and place:
        return place, {"kind": text}
    if not place:
        require_kind(kind, "reward")
        return kind, {"kind": kind}
    path, revision = split(place)
    settings: dict[str, Any] = {"kind": kind, "path": path, "revision": revision}
    if kind in BESIDE:
        settings["options"] = BESIDE[kind]
    return path.rstrip("/").rpartition("/")[2], settings
