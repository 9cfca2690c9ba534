"""The text-to-image model, and the decoder of its previews."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ttsnap.config._base import Settings, Source, Text


class Preview(Settings):
    """What shows estimates cheaply: a tiny autoencoder such as TAESD, or a linear map."""

    kind: Literal["tiny", "linear"] = Field(
        "tiny",
        exclude_if=lambda kind: kind == "tiny",
        description="tiny: an AutoencoderTiny; linear: from latents to RGB, fitted by the run.",
    )
    path: Text | None = Field(
        None,
        description="Of a tiny one: local folder, or hub id ORG/NAME, of an AutoencoderTiny.",
    )
    revision: Text | None = Field(None, description="Commit of a hub id, which must have one.")

    @model_validator(mode="after")
    def name_what_is_loaded(self) -> Preview:
        """Only a tiny autoencoder is loaded from somewhere."""
        if (self.path is None) == (self.kind == "tiny"):
            raise ValueError(
                "path: Field required" if self.path is None else "path: a linear one is fitted"
            )
        return self


class GeneratorLora(Settings):
    """A LoRA that is fused into the model, in the format of diffusers or Kohya."""

    path: Text = Field(description="A .safetensors file, a folder with one, or hub id ORG/NAME.")
    revision: Text | None = Field(None, description="Commit of a hub id, which must have one.")
    weight: Text | None = Field(None, description="File in it, which a hub id must have.")
    scale: float = Field(1.0, description="Factor of its update of the weights.")
    second: bool = Field(
        False,
        exclude_if=lambda second: not second,
        description="Fused into the second of two transformers, as Wan 2.2 has them.",
    )


class Autoencoder(Settings):
    """An autoencoder in place of the model's own."""

    path: Text = Field(
        description="A .safetensors file, a folder in diffusers layout, or hub id ORG/NAME."
    )
    revision: Text | None = Field(None, description="Commit of a hub id, which must have one.")


class Model(Settings):
    """Text-to-image model."""

    family: Text = Field(
        "stable-diffusion",
        description="One of `ttsnap models`; auto, as where only a path is given: as files say.",
    )
    path: Source = Field(
        "ttsnap/shapes/weights/generator",
        validate_default=True,
        description="Local folder, .safetensors or .gguf file, or hub id ORG/NAME.",
    )
    revision: Text | None = Field(None, description="Commit of a hub id, which must have one.")
    components: Text | None = Field(
        None,
        exclude_if=lambda components: components is None,
        description="Of a file: folder, or ORG/NAME@COMMIT, with what the file lacks.",
    )
    vae: Autoencoder | None = Field(
        None,
        exclude_if=lambda vae: vae is None,
        description="{path, revision} of an autoencoder in place of the model's own.",
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "float32",
        description="float32, float16, bfloat16; auto: float32 on a CPU, half precision on a GPU.",
    )
    quantization: Literal["int8", "fp8", "bnb-int8", "bnb-nf4"] | None = Field(
        None,
        exclude_if=lambda quantization: quantization is None,
        description="Fewer bits a weight: int8 (torchao), fp8 (cast), bnb-int8, bnb-nf4.",
    )
    autocast: Literal["off", "bfloat16", "auto"] = Field(
        "auto",
        exclude_if=lambda autocast: autocast == "off",
        description="Evaluations of a float32 model: off, bfloat16; auto: where hardware has it.",
    )
    loras: list[GeneratorLora] = Field(
        [],
        exclude_if=lambda loras: not loras,
        description="LoRAs fused into it, each {path, revision, weight, scale}.",
    )
    preview: Preview | None = Field(
        Preview(kind="linear"),
        description="What checks see: {kind: linear} beside decodes, {path, revision} in place.",
    )
    vae_tiling: bool = Field(False, description="Decode in tiles: less memory, faint seams.")

    @property
    def linear_preview(self) -> bool:
        """Whether checks can see linear previews beside decodes."""
        return self.preview is not None and self.preview.kind == "linear"

    @property
    def looks(self) -> tuple[str, ...]:
        """How checks can look at estimates, the usual way first: ``decode``, ``preview``."""
        if self.linear_preview:
            return ("decode", "preview")
        return ("decode",) if self.preview is None else ("preview",)

    @model_validator(mode="before")
    @classmethod
    def find_out(cls, given: Any) -> Any:
        """Leave to files and machine what is not said of a path that is given."""
        if isinstance(given, Mapping) and "path" in given:
            unsaid = {"family": "auto", "dtype": "auto", "autocast": "off", "preview": None}
            return unsaid | dict(given)
        return given

    @field_validator("autocast", mode="before")
    @classmethod
    def read_off(cls, given: Any) -> Any:
        """YAML reads ``off`` as false."""
        return "off" if given is False else given
