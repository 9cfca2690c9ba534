"""The text-to-image model, and the decoder of its previews."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ttsnap.config._base import Settings, Text


class Preview(Settings):
    """A tiny autoencoder, such as TAESD, that decodes estimates cheaply."""

    path: Text = Field(description="Local folder, or hub id ORG/NAME, of an AutoencoderTiny.")
    revision: Text | None = Field(None, description="Commit of a hub id, which must have one.")


class Model(Settings):
    """Text-to-image model."""

    family: Text = Field(
        "stable-diffusion",
        description="One that `ttsnap models` lists, such as sdxl, flux, edm or, of videos, ltx.",
    )
    path: Text = Field(
        "ttsnap/shapes/weights/generator", description="Local folder, or hub id ORG/NAME."
    )
    revision: Text | None = Field(None, description="Commit of a hub id, which must have one.")
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="Precision: float32, float16 or bfloat16."
    )
    preview: Preview | None = Field(
        None, description="Preview decoder, {path, revision}, for the latents of the model."
    )
    vae_tiling: bool = Field(False, description="Decode in tiles: less memory, faint seams.")
