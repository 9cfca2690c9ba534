"""Loading pipelines from folders and the hub, with errors a user can act on."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from textwrap import shorten
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError
from safetensors.torch import load_file

from ttsnap import config, hub
from ttsnap.config import FILE, is_hub_id
from ttsnap.diffusion.headers import header
from ttsnap.diffusion.layouts import layout_of
from ttsnap.diffusion.loras import fuse_loras
from ttsnap.diffusion.sources import (
    NOT_LOADED,
    check_pinned,
    held,
    lacking,
    model_index,
    parts,
    variant,
    with_family,
)
from ttsnap.errors import UserError

PICKLES = (".bin", ".ckpt", ".pt", ".pth")

_LIBRARIES = (diffusers.utils.logging, transformers.utils.logging)


def load_pipeline(pipeline_class: Any, model: config.Model, runtime: config.Runtime) -> Any:
    """Load a diffusers pipeline in inference mode, with its LoRAs and its switches.

    Args:
        pipeline_class: that the model must be of.
        model: a folder or a file that exists, or a hub id with the revision that pins it.
        runtime: device, see :func:`torch_device`, and switches.

    Raises:
        UserError: no such folder, file or hub id, another pipeline class, weights that are missing
            or damaged, or a switch that the model or the device does not have.
    """
    target = torch_device(runtime.device)
    dtype = dtype_on(target, model.dtype)
    # Downloads from the hub take long enough to be watched.
    quiet = nullcontext() if is_hub_id(model.path) else no_progress_bars()
    with quiet, _explained("model.path", model.path):
        if model.path.endswith(FILE):
            with no_warnings():
                pipe = _from_file(pipeline_class, model, dtype)
        else:
            folder = _local_folder(pipeline_class, model, dtype)
            pipe = _from_folder(pipeline_class, folder, dtype)
    with no_warnings():
        fuse_loras(pipe, model.loras)
    _set_switches(pipe, model, runtime)
    with _explained("model.path", model.path):
        return _place(pipe, runtime.offload, target)


def settled(model: config.Model, runtime: config.Runtime) -> config.Model:
    """``model`` with its family and its precision in place of ``auto``, as records want it.

    Raises:
        UserError: the model has no family, or this machine no such device.
    """
    dtype = dtype_on(torch_device(runtime.device), model.dtype)
    return with_family(model).model_copy(update={"dtype": _name(dtype)})


def load_preview(source: config.Preview, pipe: Any) -> Any:
    """Load the tiny autoencoder that previews the latents of ``pipe``.

    Raises:
        UserError: no such folder or hub id, or it is for latents with other channels.
    """
    local = Path(source.path).is_dir()
    if not local:
        check_pinned(source.path, source.revision, "model.preview")
    quiet = no_progress_bars() if local else nullcontext()
    with quiet, _explained("model.preview.path", source.path):
        preview = diffusers.AutoencoderTiny.from_pretrained(
            source.path,
            revision=source.revision,
            dtype=pipe.dtype,
            local_files_only=local,
            use_safetensors=True,
        )
    channels, wanted = preview.config.latent_channels, pipe.vae.config.latent_channels
    if channels != wanted:
        raise UserError(
            f"model.preview.path: {source.path} decodes {channels} channels, not the {wanted} of "
            "the model"
        )
    return preview.eval().to(pipe._execution_device)


@contextmanager
def _explained(place: str, path: str) -> Iterator[None]:
    """Turn what diffusers and transformers raise about files into one line."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError, SingleFileComponentError) as error:
        raise UserError(f"{place}: cannot load {path}: {_one_line(error)}") from error


def _local_folder(pipeline_class: Any, model: config.Model, dtype: torch.dtype) -> Path:
    """The folder of a model, which is fetched if it is a hub id."""
    path, revision = model.path, model.revision
    if Path(path).is_dir():
        return Path(path)
    check_pinned(path, revision)
    return download(pipeline_class, path, str(revision), _name(dtype))


def download(pipeline_class: Any, repository: str, revision: str, dtype: str) -> Path:
    """Fetch what sampling needs of a pipeline, of the variants of its weights the best one.

    Args:
        pipeline_class: that the repository is of.
        repository: hub id.
        revision: commit.
        dtype: precision, or auto.
    """
    names: dict[str, list[str]] = defaultdict(list)
    for file in hub.files_of(repository, revision):
        part, _, name = file.rpartition("/")
        names[part].append(name)
    best = [variant(files, dtype) for part, files in names.items() if part not in NOT_LOADED]
    with no_warnings():
        # A part that lacks the variant comes without it.
        folder = pipeline_class.download(
            repository,
            revision=revision,
            variant=next(filter(None, best), None),
            use_safetensors=True,
            **dict.fromkeys(NOT_LOADED),
        )
    return Path(folder)


def _from_folder(pipeline_class: Any, folder: Path, dtype: torch.dtype, **given: Any) -> Any:
    """A pipeline from its folder, with parts that are given in place of those in the folder."""
    index = _checked_index(pipeline_class, folder, given)
    named = {
        name: kind
        for name, kind in parts(index).items()
        if name not in given and _variant_in(folder, name, dtype)
    }
    given |= {name: load_part(folder, name, kind, dtype) for name, kind in named.items()}
    return pipeline_class.from_pretrained(
        str(folder),
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        **_left_out(pipeline_class),
        **given,
    )


def load_part(folder: Path, name: str, kind: tuple[str, str], dtype: torch.dtype) -> Any:
    """A part of a pipeline, by its library and class, of the variant that fits the precision."""
    return _class(kind).from_pretrained(
        str(folder / name),
        dtype=dtype,
        variant=_variant_in(folder, name, dtype) or None,
        local_files_only=True,
        use_safetensors=True,
    )


def _from_file(pipeline_class: Any, model: config.Model, dtype: torch.dtype) -> Any:
    """A pipeline whose denoiser, or all of it, is in one file."""
    file, layout = Path(model.path), layout_of(model)
    index = model_index(str(layout))
    _check_class(pipeline_class, str(layout), index)
    kinds = parts(index)
    own = held(header(file), index)
    denoiser = "unet" if "unet" in kinds else "transformer"
    if "vae" not in own or not hasattr(pipeline_class, "from_single_file"):
        given = {denoiser: _denoiser(kinds[denoiser], file, layout, denoiser, dtype)}
        pipe = _from_folder(pipeline_class, layout, dtype, **given)
    else:
        others = {
            name: load_part(layout, name, kinds[name], dtype)
            for name in lacking(model.path, str(layout))
        }
        pipe = pipeline_class.from_single_file(
            str(file),
            config=str(layout),
            dtype=dtype,
            local_files_only=True,
            **_left_out(pipeline_class),
            **others,
        )
    for name, part in pipe.components.items():
        for key, tensor in part.named_parameters() if isinstance(part, torch.nn.Module) else ():
            if tensor.is_meta:
                raise UserError(f"model.path: {file} lacks {key} of the {name} of {layout}")
    return pipe


def _denoiser(
    kind: tuple[str, str], file: Path, layout: Path, part: str, dtype: torch.dtype
) -> Any:
    """A U-Net or transformer from a file, with the config that it has in a folder of a pipeline."""
    denoiser = _class(kind)
    if hasattr(denoiser, "from_single_file"):
        return denoiser.from_single_file(
            str(file), config=str(layout), subfolder=part, dtype=dtype, local_files_only=True
        )
    model = denoiser.from_config(denoiser.load_config(layout / part))
    model.load_state_dict(load_file(file))
    return model.to(dtype).eval()


def _class(kind: tuple[str, str]) -> Any:
    """A class by its library and its name."""
    library, name = kind
    return getattr(import_module(library), name)


def _left_out(pipeline_class: Any) -> dict[str, Any]:
    known = inspect.signature(pipeline_class.__init__).parameters
    left_out: dict[str, Any] = {**dict.fromkeys(NOT_LOADED), "requires_safety_checker": False}
    return {name: value for name, value in left_out.items() if name in known}


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


def dtype_on(device: torch.device, name: str) -> torch.dtype:
    """The precision of this name; ``auto`` depends on the device.

    It is float32 on a CPU, bfloat16 on a GPU that has it, and float16 on any other GPU.
    """
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cpu":
        return torch.float32
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(False)
    return torch.bfloat16 if has_bfloat16 else torch.float16


def torch_device(name: str) -> torch.device:
    """The torch device of this name; ``auto`` is the first CUDA GPU if there is one, else the CPU.

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


def _checked_index(pipeline_class: Any, folder: Path, given: Iterable[str]) -> dict[str, Any]:
    """``model_index.json``, once every part that it names is there and not ``given``."""
    index = model_index(str(folder))
    _check_class(pipeline_class, str(folder), index)
    # A missing tokenizer would be replaced by an empty one without a word.
    for name in parts(index):
        part = folder / name
        if not part.is_dir():
            raise UserError(f"model.path: {folder} has no folder {name}")
        if name in given or not (part / "config.json").is_file():
            continue
        if _variant_in(folder, name, torch.float32) is None:
            pickles = sorted(file.name for file in part.iterdir() if file.suffix in PICKLES)
            why = f", but {pickles[0]}, a pickle, which can run any code" if pickles else ""
            raise UserError(f"model.path: {part} has no {FILE} file of weights{why}")
    return index


def _check_class(pipeline_class: Any, place: str, index: Mapping[str, Any]) -> None:
    found, wanted = index["_class_name"], pipeline_class.__name__
    if found != wanted:
        raise UserError(f"model.path: {place} is a {found}, not a {wanted}")


def _variant_in(folder: Path, part: str, dtype: torch.dtype) -> str | None:
    return variant((file.name for file in (folder / part).iterdir()), _name(dtype))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _one_line(error: BaseException) -> str:
    return shorten(str(error), 240, placeholder=" …")
