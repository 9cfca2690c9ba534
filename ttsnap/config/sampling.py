"""How the model is sampled."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from ttsnap.config._base import Pixels, Settings


def early(steps: int, further: int = 0) -> list[int]:
    """Indices of the noisier three fifths of so many steps, where pruning saves most.

    Args:
        steps: 1 or more.
        further: how many of those that follow are among them.
    """
    return list(range(min(steps, max(1, steps * 3 // 5) + further)))


class Scheduler(Settings):
    """Noise schedule and solver, from diffusers."""

    name: str = Field(
        "EulerDiscreteScheduler",
        pattern=r"^[A-Za-z0-9]+Scheduler$",
        description="Class name of a diffusers scheduler.",
    )
    options: dict[str, Any] = Field(
        {}, description="Options of the scheduler that replace the model's own."
    )


class NegToMe(Settings):
    """Negative token merging (arXiv 2412.01339): images leave the reference of their group."""

    alpha: float = Field(1.2, ge=0, description="Strength; 0 changes nothing.")
    threshold: Annotated[float, Field(ge=-1, le=1)] = Field(
        0.65, description="Cosine similarity to its best match above which a token is pushed."
    )
    t_start: float = Field(1000, ge=0, description="First timestep, noisiest, of 1000 to 0.")
    t_end: float = Field(900, ge=0, description="Last timestep.")
    where: Literal["up", "all"] = Field(
        "all", description="up: self-attention of a U-Net's up blocks; all: of all blocks."
    )
    min_width: PositiveInt = Field(32, description="Least width of a feature map, tokens.")
    group: Annotated[int, Field(ge=2)] = Field(
        8, description="Consecutive images of a prompt that share a reference."
    )
    reference: int = Field(0, ge=0, description="Which of its group is the reference.")

    def reference_of(self, image: int) -> int:
        """The image of a prompt that is the reference of its ``image``."""
        return image - image % self.group + self.reference


STEPS = 12

WORLD = ("steps", "guidance_scale", "height", "width", "scheduler")
"""Settings whose defaults are those of the embedded world; another model has its own."""


class Sampling(Settings):
    """How the model is sampled."""

    steps: PositiveInt = Field(
        STEPS, description="Denoising steps; step indices below run from 0 to steps - 1."
    )
    guidance_scale: float = Field(
        1.5, ge=0, description="Classifier-free guidance scale; 1 is none, and half the cost."
    )
    guidance_options: dict[str, float] = Field(
        {},
        exclude_if=lambda options: not options,
        description="Further guidance, as the pipeline's call names it: guidance_rescale, …",
    )
    height: Pixels = Field(32, description="Height of an image, pixels.")
    width: Pixels = Field(32, description="Width of an image, pixels.")
    frames: PositiveInt = Field(1, description="Frames of a video; 1 of an image.")
    scored_frames: PositiveInt = Field(
        4, description="Frames of a video that are scored, evenly spaced; their mean counts."
    )
    scheduler: Scheduler = Scheduler(
        options={"timestep_spacing": "linspace", "use_exponential_sigmas": True}
    )
    negtome: NegToMe | None = Field(
        None, description="Negative token merging, for images that differ more; null is none."
    )
