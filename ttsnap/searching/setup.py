"""From what a user asks for to what a method is given; shared by command, stage and notebook."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from ttsnap.config import Costs, Sampling, Scheduler, Settings
from ttsnap.errors import UserError
from ttsnap.rewards import KINDS, require_kind
from ttsnap.schedule import CostModel, planned_schedule
from ttsnap.searching.budget import Unit
from ttsnap.searching.methods import METHODS, Method

if TYPE_CHECKING:
    from ttsnap.diffusion.sampler import Sampler
    from ttsnap.rewards.base import Reward


def method_named(name: str) -> Method:
    """The search method of this name.

    Raises:
        UserError: there is none; suggests the nearest.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(METHODS)}"
        raise UserError(f"method {name}: unknown; {hint}")
    return METHODS[name]


def method_options(method: Method, given: Mapping[str, Any]) -> Settings:
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


def prunes(method: Method) -> bool:
    """Whether a method runs a pruning schedule, which a plan can choose."""
    return "schedule" in method.options.model_fields


def looks_by_narf(method: Method) -> bool:
    """Whether a method looks at early steps with NARF checkpoints unless told otherwise."""
    return prunes(method) and method.name != "ttsp"


def planned_options(
    plan: Mapping[str, Any], method: Method, budget: float, reward: str, costs: CostModel
) -> dict[str, str]:
    """The schedule that a plan chose for a method that prunes, as an option of it.

    Args:
        plan: of :func:`ttsnap.schedule.read_plan`.
        method: prunes.
        budget: in the unit of ``costs``.
        reward: that prunes, or ``joint``.
        costs: of the sampler that is to run it.

    Raises:
        UserError: see :func:`ttsnap.schedule.planned_schedule`.
    """
    strategy = "ttsnap" if looks_by_narf(method) else "ttsp"
    return {"schedule": str(planned_schedule(plan, strategy, budget, reward=reward, costs=costs))}


def read_options(given: Sequence[str]) -> dict[str, Any]:
    """What ``key=value`` texts say; values are read as YAML, so that 4 is a number.

    Raises:
        UserError: one is no ``key=value``.
    """
    options = {}
    for text in given:
        key, equals, value = text.partition("=")
        try:
            options[key.strip()] = yaml.safe_load(value)
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
    source = read_source(place)
    return source["path"].rstrip("/").rpartition("/")[2], {"kind": kind, **source}


def read_source(text: str) -> dict[str, Any]:
    """``path`` and ``revision`` of a folder, or of ``ORG/NAME@COMMIT`` on the hub."""
    path, _, revision = (text, "", "") if Path(text).exists() else text.partition("@")
    return {"path": path, "revision": revision or None}


def sampling_for(
    method: Method, family: str, sampling: Sampling, asked: Scheduler | None = None
) -> Sampling:
    """``sampling`` with a scheduler that ``method`` can use, or with the one ``asked`` for.

    A method that searches the noise of the steps gets a stochastic one by itself. One that was
    asked for is left as it is: a method that cannot use it will say so.
    """
    from ttsnap.diffusion import sampler_class

    scheduler = asked or sampling.scheduler
    if method.needs_stochastic and not asked:
        scheduler = sampler_class(family).stochastic_scheduler
    return sampling.model_copy(update={"scheduler": scheduler})


def cost_model(
    unit: Unit,
    costs: Costs,
    sampler: Sampler,
    rewards: Sequence[Reward],
    sampling: Sampling,
    batch: int,
) -> CostModel:
    """Prices in ``unit``, in which an image is scored by all ``rewards``.

    Args:
        unit: of the budget. NFE counts evaluations of the denoiser and nothing else.
        costs: prices that are known, in their own unit; the others are measured.
        sampler: draws the images.
        rewards: score them.
        sampling: the size of the images.
        batch: candidates that run together.
    """
    from ttsnap.searching import pricing

    if unit == "NFE":
        return CostModel(1.0, 0.0, 0.0, steps=sampler.steps, unit="NFE")
    known = costs if costs.unit == unit else Costs(unit=unit)
    models = [pricing.cost_model(known, sampler, reward, sampling, batch) for reward in rewards]
    return replace(models[0], reward=sum(model.reward for model in models))
