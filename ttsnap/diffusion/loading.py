"""Loading pipelines from folders and the hub, with errors a user can act on."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from textwrap import shorten
from typing import Any

import diffusers
import torch
import transformers
from safetensors import SafetensorError

from ttsnap import config
from ttsnap.errors import UserError

NOT_LOADED = ("safety_checker", "feature_extractor")
"""Components that take no part in sampling."""

HUB_ID = r"[\w.-]+/[\w.-]+"

_LIBRARIES = (diffusers.utils.logging, transformers.utils.logging)


def load_pipeline(pipeline_class: Any, model: config.Model, runtime: config.Runtime) -> Any:
    """Load a diffusers pipeline in inference mode, with its memory and speed switches set.

    Args:
        pipeline_class: that the model must be of.
        model: a folder that exists, or a hub id with the revision that pins it.
        runtime: device, see :func:`torch_device`, and switches.

    Raises:
        UserError: no such folder or hub id, another pipeline class, weights that are missing or
            damaged, or a switch that the model or the device does not have.
    """
    target = torch_device(runtime.device)
    folder = Path(model.path)
    if folder.is_dir():
        _check_folder(folder, pipeline_class.__name__)
    left_out: dict[str, Any] = {**dict.fromkeys(NOT_LOADED), "requires_safety_checker": False}
    known = inspect.signature(pipeline_class.__init__).parameters
    pipe = _from_pretrained(
        pipeline_class,
        "model",
        model,
        model.dtype,
        **{name: value for name, value in left_out.items() if name in known},
    )
    _set_switches(pipe, model, runtime)
    try:
        return _place(pipe, runtime.offload, target)
    except RuntimeError as error:
        raise UserError(f"model.path: cannot load {model.path}: {_one_line(error)}") from error


def load_preview(source: config.Preview, model: config.Model, pipe: Any) -> Any:
    """Load the tiny autoencoder that previews the latents of ``pipe``.

    Raises:
        UserError: no such folder or hub id, or it is for latents with other channels.
    """
    preview = _from_pretrained(diffusers.AutoencoderTiny, "model.preview", source, model.dtype)
    channels, wanted = preview.config.latent_channels, pipe.vae.config.latent_channels
    if channels != wanted:
        raise UserError(
            f"model.preview.path: {source.path} decodes {channels} channels, not the {wanted} of "
            "the model"
        )
    return preview.eval().to(pipe._execution_device)


def _from_pretrained(
    kind: Any, place: str, source: config.Model | config.Preview, dtype: str, **options: Any
) -> Any:
    """``kind`` from the source that the section ``place`` of the config names."""
    local = Path(source.path).is_dir()
    if not local and (source.revision is None or not re.fullmatch(HUB_ID, source.path)):
        raise UserError(
            f"{place}.path: {source.path} is neither a folder nor a hub id with "
            f"{place}.revision set"
        )
    # Downloads from the hub take long enough to be watched.
    quiet = no_progress_bars() if local else nullcontext()
    try:
        with quiet:
            return kind.from_pretrained(
                source.path,
                revision=source.revision,
                dtype=getattr(torch, dtype),
                local_files_only=local,
                use_safetensors=True,
                **options,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = _one_line(error)
        raise UserError(f"{place}.path: cannot load {source.path}: {reason}") from error


def _place(pipe: Any, offload: str, device: torch.device) -> Any:
    if offload == "none":
        return pipe.to(device)
    if device.type == "cpu":
        raise UserError(f"runtime.offload: {offload} needs a GPU as runtime.device, not the CPU")
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.enable_sequential_cpu_offload(device=device)
    return pipe


def _set_switches(pipe: Any, model: config.Model, runtime: config.Runtime) -> None:
    vae = getattr(pipe, "vae", None)
    for place, name, wanted in (
        ("model", "tiling", model.vae_tiling),
        ("runtime", "slicing", runtime.vae_slicing),
    ):
        if wanted and not hasattr(vae, f"enable_{name}"):
            owner = type(vae or pipe).__name__
            raise UserError(f"{place}.vae_{name}: {owner} cannot do this")
        if wanted:
            getattr(vae, f"enable_{name}")()
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    if runtime.attention is not None:
        try:
            with no_warnings():
                denoiser.set_attention_backend(runtime.attention)
        except (ValueError, RuntimeError, ImportError) as error:
            raise UserError(
                f"runtime.attention: {runtime.attention}: {_one_line(error)}"
            ) from error
    if runtime.compile:
        denoiser.compile()


def torch_device(name: str) -> torch.device:
    """The torch device of this name; ``auto`` is the first GPU if there is one, else the CPU.

    Raises:
        UserError: no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"runtime.device: {name} is not usable: {_one_line(error)}") from error
    return device


@contextmanager
def no_warnings() -> Iterator[None]:
    """Let diffusers and transformers log errors only."""
    before = [library.get_verbosity() for library in _LIBRARIES]
    for library in _LIBRARIES:
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, verbosity in zip(_LIBRARIES, before, strict=True):
            library.set_verbosity(verbosity)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Hide the progress bars of diffusers and transformers."""
    shown = [library for library in _LIBRARIES if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def _check_folder(folder: Path, class_name: str) -> None:
    index = folder / "model_index.json"
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
        found = parts["_class_name"]
    except FileNotFoundError:
        raise UserError(f"model.path: {folder} has no model_index.json") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{index}: expected JSON with a _class_name") from None
    if found != class_name:
        raise UserError(f"model.path: {folder} is a {found}, not a {class_name}")
    # A missing tokenizer would be replaced by an empty one without a word.
    for name, kind in parts.items():
        wanted = isinstance(kind, list) and kind[0] is not None and name not in NOT_LOADED
        if wanted and not (folder / name).is_dir():
            raise UserError(f"model.path: {folder} has no folder {name}")


def _one_line(error: BaseException) -> str:
    return shorten(str(error), 240, placeholder=" …")
