"""Loading pipelines from folders and the hub, with errors a user can act on."""

from __future__ import annotations

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

_LIBRARIES = (diffusers.utils.logging, transformers.utils.logging)


def load_pipeline(class_name: str, model: config.Model, device: str) -> Any:
    """Load a diffusers pipeline in inference mode.

    Args:
        class_name: the pipeline class that the model must be of.
        model: a folder that exists, or a hub id with the revision that pins it.
        device: see :func:`torch_device`.

    Raises:
        UserError: no such folder or hub id, another pipeline class, or weights that are missing
            or damaged.
    """
    target = torch_device(device)
    folder = Path(model.path)
    local = folder.is_dir()
    if local:
        _check_folder(folder, class_name)
    elif model.revision is None or not re.fullmatch(r"[\w.-]+/[\w.-]+", model.path):
        raise UserError(
            f"model.path: {model.path} is neither a folder nor a hub id with model.revision set"
        )
    # Downloads from the hub take long enough to be watched.
    quiet = no_progress_bars() if local else nullcontext()
    try:
        with quiet:
            pipe = getattr(diffusers, class_name).from_pretrained(
                model.path,
                revision=model.revision,
                dtype=getattr(torch, model.dtype),
                local_files_only=local,
                use_safetensors=True,
                **dict.fromkeys(NOT_LOADED),
                requires_safety_checker=False,
            )
        return pipe.to(target)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"model.path: cannot load {model.path}: {_one_line(error)}") from error


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
