"""Site matters, which change no result."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from ttsnap.config._base import Device, Settings, Text


class Runtime(Settings):
    """Site matters that do not change results; a change re-runs nothing."""

    device: Device = Field(
        "cpu",
        description="cpu, mps, cuda, cuda:1, …; auto, as where model.path is given: a GPU if any.",
    )
    batch_size: PositiveInt = Field(64, description="Candidates denoised or scored at once.")
    processes: PositiveInt = Field(
        1, description="Processes that finetune a reward together, each on a GPU of its own."
    )
    train_batch: PositiveInt | None = Field(
        None,
        description="Images per forward pass of finetuning; null: a process's share of a batch.",
    )
    offload: Literal["none", "model", "group", "sequential"] = Field(
        "none",
        description="What waits in main memory, idle: model: models; group, sequential: layers.",
    )
    vae_slicing: bool = Field(False, description="Decode one image at a time: less memory.")
    release_text_encoders: bool = Field(
        False, description="Keep text encoders in main memory but while they encode."
    )
    attention: Text | None = Field(
        None, description="Attention backend of diffusers, such as flash; null is torch's."
    )
    compile: bool = Field(False, description="Compile the denoiser, for batches of a few sizes.")
