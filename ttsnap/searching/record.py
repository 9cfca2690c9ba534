"""What a picture says of itself, in the text of its PNG: all that brings it back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile, PngInfo
from pydantic import Field, ValidationError

import ttsnap
from ttsnap import config, strict_json
from ttsnap.config import Settings
from ttsnap.diffusion.sources import described
from ttsnap.errors import UserError
from ttsnap.rewards.frames import still
from ttsnap.store.videos import write_mp4

if TYPE_CHECKING:
    from ttsnap.diffusion.sampler import Sampler
    from ttsnap.searching.result import SearchResult

KEY = "ttsnap"
"""Of the text that holds the whole record, as JSON; others hold parts of it, to be read."""


class Generator(Settings):
    """What draws pictures from noise, beside the prompt."""

    model: config.Model | None = Field(
        description="With its precision; null for a pipeline that no path and precision tell."
    )
    pipeline: bool = Field(
        description="Whether a pipeline was given that was loaded before: whatever was changed "
        "after that, such as LoRAs, is not known."
    )
    sampling: config.Sampling = Field(description="Of the sampler, its scheduler included.")
    machine: dict[str, str] = Field(description="What computed it: see `machine`.")


class Record(Settings):
    """A picture's origin; complete."""

    version: str = Field(description="Of ttsnap.")
    generator: Generator
    prompt: str
    negative_prompt: str
    method: str
    options: dict[str, Any] = Field(description="Of the method.")
    budget: str
    rewards: dict[str, float | None] = Field(description="Scores; null where that failed.")
    seed: int = Field(description="Of the candidate's own noise.")
    noises: list[list[int]] = Field(description="See ttsnap.searching.result.Candidate.")
    reference: int | None = Field(description="Likewise.")

    def text(self) -> dict[str, str]:
        """The text of the PNG: what a person looks for, key by key, and all of it as ``ttsnap``."""
        sampling, model = self.generator.sampling, self.generator.model
        scheduler = [f"{key}={value}" for key, value in sampling.scheduler.options.items()]
        reward = next(iter(self.rewards))
        size = f"{sampling.width}x{sampling.height}"
        return {
            "prompt": self.prompt,
            **({"negative_prompt": self.negative_prompt} if self.negative_prompt else {}),
            "seed": str(self.seed),
            **({"model": described(model), "dtype": model.dtype} if model else {}),
            **({"autocast": model.autocast} if model and model.autocast != "off" else {}),
            **({"components": model.components} if model and model.components else {}),
            "scheduler": ",".join([sampling.scheduler.name, *scheduler]),
            "steps": str(sampling.steps),
            "guidance_scale": f"{sampling.guidance_scale:g}",
            **{name: f"{value:g}" for name, value in sampling.guidance_options.items()},
            "size": size if sampling.frames == 1 else f"{size}x{sampling.frames}",
            "method": self.method,
            "options": strict_json.dumps(self.options),
            "reward": reward,
            "score": str(self.rewards[reward]),
            "budget": self.budget,
            "noises": json.dumps(self.noises),
            **({} if self.reference is None else {"reference": str(self.reference)}),
            KEY: strict_json.dumps(self.model_dump(mode="json")),
        }


def generator_of(sampler: Sampler, model: config.Model | None) -> Generator:
    """What draws pictures with a sampler.

    Args:
        sampler: any.
        model: that its pipeline was loaded as; None if it was not loaded here.
    """
    pipe, given = sampler.pipe, model is None
    precision = str(sampler.denoiser.dtype).removeprefix("torch.")
    if given and pipe.name_or_path and precision in ("float32", "float16", "bfloat16"):
        model = config.Model.model_validate({"path": str(pipe.name_or_path), "dtype": precision})
    if model is not None:
        model = model.model_copy(update={"path": config.within(model.path)})
    return Generator(
        model=model, pipeline=given, sampling=sampler.sampling, machine=machine(sampler.device)
    )


def machine(device: Any) -> dict[str, str]:
    """What may change the rounding of a picture: kind of device, GPU, and versions.

    Args:
        device: of torch.
    """
    import diffusers
    import torch

    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    versions = {"torch": str(torch.__version__), "diffusers": diffusers.__version__}
    return {"device": device.type, **gpu, **versions}


def record_of(result: SearchResult, index: int) -> Record:
    """The record of a candidate that finished."""
    candidate = result.candidates[index]
    return Record(
        version=ttsnap.__version__,
        generator=result.generator,
        prompt=result.prompt,
        negative_prompt=result.negative_prompt,
        method=result.method,
        options=result.options,
        budget=f"{result.budget:g} {result.unit}",
        rewards={
            name: candidate.rewards[name] if np.isfinite(candidate.rewards[name]) else None
            for name in result.rewards
        },
        seed=candidate.seed,
        noises=[list(recipe) for recipe in candidate.noises],
        reference=candidate.reference,
    )


def save_picture(
    path: Path, image: np.ndarray, record: Record, frame_rate: float | None = None
) -> None:
    """Write a PNG with its record, and of a video, of which that is the middle frame, the MP4.

    Args:
        path: of the PNG; its folder is made if it is not there.
        image: uint8 (H, W, 3), or a video (F, H, W, 3).
        record: of the image.
        frame_rate: frames per second of a video.
    """
    text = PngInfo()
    for key, value in record.text().items():
        text.add_text(key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(still(image)).save(path, pnginfo=text)
    if frame_rate is not None:
        write_mp4(path.with_suffix(".mp4"), image, frame_rate)


def read_picture(path: Path) -> tuple[np.ndarray, Record]:
    """A picture that a search saved, uint8 (H, W, 3), and its record.

    Raises:
        UserError: it is no PNG, or has no record that can be read.
    """
    try:
        with Image.open(path) as png:
            if not isinstance(png, PngImageFile):
                raise UnidentifiedImageError
            png.load()
            text, image = png.text, np.array(png)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        raise UserError(f"{path}: not a PNG, or a damaged one") from None
    if KEY not in text:
        raise UserError(
            f"{path}: says nothing of how ttsnap drew it; a search did not draw it, or its text "
            "was stripped since"
        )
    try:
        record = Record.model_validate_json(text[KEY])
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}: its record cannot be read by ttsnap {ttsnap.__version__}: "
            f"{place}: {first['msg']}"
        ) from None
    sampling = record.generator.sampling
    if image.shape != (sampling.height, sampling.width, 3):
        raise UserError(
            f"{path}: is no longer as it was drawn, {sampling.width} x {sampling.height} pixels "
            "in RGB"
        )
    return image, record
