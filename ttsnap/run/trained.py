"""What a run has planned and trained for searches, and what model it was made for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ttsnap.config import Model, RewardSettings, Sampling, load_config
from ttsnap.errors import UserError
from ttsnap.run.status import SETTINGS

PREVIEW = "preview.safetensors"
"""Where a run has the linear preview that it fitted."""

NO_MATTER = ("dtype", "autocast", "preview", "vae_tiling")
"""Settings of a model that leave its images what they are, but for rounding."""

OWN = "the model's own"
"""In place of a setting that is left to the pipeline: no run has it."""


def made_for(
    model: Model, sampling: Sampling, rewards: Mapping[str, RewardSettings]
) -> dict[str, Any]:
    """What a plan or a checkpoint is good for: these weights, sampled so, judged by these rewards.

    Local weights are told by their place, those of the hub by their commit.
    """
    # A dump leaves these out where there are none.
    known: dict[str, Any] = {"components": None, "vae": None, "loras": [], "quantization": None}
    known |= model.model_dump(mode="json", exclude={*NO_MATTER})
    return {
        "model": known | {"path": _place(model.path)},
        "sampling": {"guidance_options": None} | sampling.model_dump(mode="json"),
        "rewards": {
            name: reward.model_dump(mode="json") | {"path": _place(reward.path or "")}
            for name, reward in rewards.items()
        },
    }


def _place(path: str) -> str:
    return str(Path(path).resolve()) if Path(path).exists() else path


def difference(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """The first setting in which something was made for another search than this; None if none.

    Args:
        made: as :func:`made_for` of what it was made for, with all rewards that it knows.
        wanted: the same of what is to be searched.
    """
    for place, now in _leaves(wanted):
        then: Any = made
        for key in place:
            then = then.get(key) if isinstance(then, Mapping) else None
        if then != now:
            values = (json.dumps(value, ensure_ascii=False) for value in (then, now))
            return f"its {'.'.join(place)} is {', not '.join(values)}"
    return None


def _leaves(nested: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    for key, value in nested.items():
        # Options are one value: those that are left out matter, too.
        if isinstance(value, Mapping) and key not in ("options", "guidance_options"):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def made_by(run: Path) -> dict[str, Any] | None:
    """What a run's plans and checkpoints were made for; None where no run has been.

    Raises:
        UserError: what the run says of itself cannot be read.
    """
    if not (run / SETTINGS).exists():
        return None
    config = load_config(run / SETTINGS)
    return made_for(config.model, config.sampling, config.rewards)


def checkpoints(
    run: Path, rewards: Iterable[str], steps: Sequence[int], suffix: str = ""
) -> dict[int, dict[str, Path]]:
    """Folders of a run's NARF checkpoints, by step and by reward; ``@preview`` for previews.

    Raises:
        UserError: one is missing.
    """
    found = {
        step: {name: run / "narf" / f"{name}{suffix}" / f"step_{step:02d}" for name in rewards}
        for step in steps
    }
    for step, of in found.items():
        for folder in of.values():
            if not folder.is_dir():
                raise UserError(
                    f"{folder}: no NARF checkpoint for step {step}; run the workflow first "
                    "(`make demo` for the default), check at one of narf.steps, or use "
                    "--method ttsp"
                )
    return found
