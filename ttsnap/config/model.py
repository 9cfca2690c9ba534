"""The text-to-image model, and the decoder of its previews."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from ttsnap.config._base import Settings, Source, Text


class Preview(Settings):
    """A tiny autoencoder, such as TAESD, that decodes estimates cheaply."""

    path: Text = Field(description="Local folder, or hub id ORG/NAME, of an AutoencoderTiny.")
    revision: Text | None = Field(None, description="Commit of a hub id, which must have one.")


class GeneratorLora(Settings):
    """A LoRA that is fused into the model, in the format of diffusers or Kohya."""

    path: Text = Field(description="A .safetensors file, a folder with one, or hub id ORG/NAME.")
    revision: Text | None = Field(None, description="Commit of a hub id, which must have one.")
    weight: Text | None = Field(None, description="File in it, which a hub id must have.")
    scale: float = Field(1.0, description="Factor of its update of the weights.")


class Model(Settings):
    """Text-to-image model."""

    family: Text = Field(
        "stable-diffusion",
        description="One of `ttsnap models`; auto, as where only a path is given: as files say.",
    )
    path: Source = Field(
        "ttsnap/shapes/weights/generator",
        validate_default=True,
        description="Local folder, .safetensors file, or hub id ORG/NAME.",
    )
    revision: Text | None = Field(None, description="Commit of a hub id, which must have one.")
    components: Text | None = Field(
        None,
        exclude_if=lambda components: components is None,
        description="Of a file: folder, or ORG/NAME@COMMIT, with what the file lacks.",
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "float32",
        description="float32, float16, bfloat16; auto: float32 on a CPU, half precision on a GPU.",
    )
    loras: list[GeneratorLora] = Field(
        [],
        exclude_if=lambda loras: not loras,
        description="LoRAs fused into it, each {path, revision, weight, scale}.",
    )
    preview: Preview | None = Field(
        None, description="Preview decoder, {path, revision}, for the latents of the model."
    )
    vae_tiling: bool = Field(False, description="Decode in tiles: less memory, faint seams.")

    @model_validator(mode="before")
    @classmethod
    def find_out(cls, given: Any) -> Any:
        """Leave to files and machine what is not said of a path that is given."""
        if isinstance(given, Mapping) and "path" in given:
            return {"family": "auto", "dtype": "auto"} | dict(given)
        return given
