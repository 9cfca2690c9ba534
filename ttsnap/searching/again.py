"""Drawing a picture again, from what its PNG says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ttsnap.config import Model, Runtime, is_hub_id
from ttsnap.errors import UserError
from ttsnap.rewards.frames import still
from ttsnap.searching.noise import reproduce
from ttsnap.searching.record import Generator, Record, generator_of
from ttsnap.searching.request import method_named, method_options


@dataclass(frozen=True)
class Again:
    """A picture that was drawn again.

    Attributes:
        image: uint8 (H, W, 3), or a video (F, H, W, 3).
        generator: what drew it.
        frame_rate: frames per second, of a video.
    """

    image: np.ndarray
    generator: Generator
    frame_rate: float | None


def draw_again(record: Record, *, device: str | None = None, say: Callable[[str], None]) -> Again:
    """Load a picture's model and draw the picture.

    Args:
        record: of the picture.
        device: as ``runtime.device``; None is what drew it, or what there is.
        say: shows a line to the user.

    Raises:
        UserError: the model is not there any more, or never was where this could find it.
    """
    from ttsnap.diffusion import load_sampler
    from ttsnap.diffusion.threads import use_threads

    generator = record.generator
    if generator.model is None:
        raise UserError(
            "it was drawn with a pipeline that was put together in memory; nothing says from what"
        )
    model = _found(generator.model, say) if generator.pipeline else generator.model
    if model.revision is None and not Path(model.path).exists():
        raise UserError(
            f"its model {model.path} is not here; go to the folder that the search ran in, or put "
            "the model where it was"
        )
    # Previews were looked at, and are no part of the picture.
    model = model.model_copy(update={"preview": None})
    place = device or _usable(generator.machine["device"])
    sampler = load_sampler(model, generator.sampling, Runtime(device=place))
    use_threads(sampler)
    image = reproduce(
        sampler,
        sampler.encode([record.prompt], [record.negative_prompt]),
        [tuple(recipe) for recipe in record.noises],
        method_options(method_named(record.method), record.options).move(),
        record.reference,
    )
    return Again(image, generator_of(sampler, model), sampler.frame_rate)


def _found(model: Model, say: Callable[[str], None]) -> Model:
    """The model of a pipeline that a script had loaded, as far as its path tells."""
    from ttsnap.diffusion.sources import pinned

    say(
        f"drawn in a script or notebook with a pipeline of {model.path}: what was changed after it "
        "was loaded, such as LoRAs, is not known"
    )
    if not is_hub_id(model.path):
        return model
    path, revision = pinned(model.path, say)
    return model.model_copy(update={"path": path, "revision": revision})


def _usable(device: str) -> str:
    from ttsnap.diffusion.devices import torch_device

    try:
        torch_device(device)
    except UserError:
        return "auto"
    return device


def compared(before: np.ndarray, record: Record, now: Again) -> str:
    """Whether a picture came out the same, or how far from it, in words.

    Args:
        before: uint8 (H, W, 3).
        record: of it.
        now: the same drawn again.
    """
    apart = np.abs(before.astype(int) - still(now.image))
    if not apart.any():
        return "identical, all pixels are the same"
    words = f"a pixel differs by up to {apart.max()} of 255, by {apart.mean():.2g} on average"
    then, today = record.generator.machine, now.generator.machine
    changed = [
        f"{name} was {then.get(name, 'none')}, is {today.get(name, 'none')}"
        for name in {**then, **today}
        if then.get(name) != today.get(name)
    ]
    why = ", ".join(changed) or "same device and versions: rounding in a batch, or other weights"
    return f"{words} ({why})"
