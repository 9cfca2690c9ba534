"""Loading pipelines from folders and the hub, with errors a user can act on."""

from __future__ import annotations

import inspect
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any

import diffusers
import torch
import transformers
from accelerate.hooks import UserCpuOffloadHook
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError
from safetensors.torch import load_file

from ttsnap import config, hub
from ttsnap.config import FILE, FILES, is_hub_id
from ttsnap.diffusion.compiling import compile_denoiser
from ttsnap.diffusion.devices import autocast_on, dtype_on, torch_device
from ttsnap.diffusion.headers import header
from ttsnap.diffusion.layouts import layout_of
from ttsnap.diffusion.loras import fuse_loras
from ttsnap.diffusion.quantization import (
    cast_layers,
    check_quantizer,
    gguf_quantizer,
    pack_layers,
    quantizer,
)
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
        runtime: device, see :func:`~ttsnap.diffusion.devices.torch_device`, and switches.

    Raises:
        UserError: no such folder, file or hub id, another pipeline class, weights that are missing
            or damaged, a package that is, or a switch that the model or the device does not have.
    """
    target = torch_device(runtime.device)
    dtype = dtype_on(target, model.dtype)
    check_quantizer(model, target)
    # Downloads from the hub take long enough to be watched.
    quiet = nullcontext() if is_hub_id(model.path) else no_progress_bars()
    with quiet, no_deprecations(), _explained("model.path", model.path):
        if model.path.endswith(FILES):
            with no_warnings():
                pipe = _from_file(pipeline_class, model, dtype)
        else:
            folder = _local_folder(pipeline_class, model, dtype)
            pipe = _from_folder(pipeline_class, folder, model, dtype)
    with no_warnings():
        fuse_loras(pipe, model.loras)
        if model.vae is not None:
            pipe.register_modules(vae=_autoencoder(model.vae, pipe))
    if model.quantization == "fp8":
        for denoiser in _denoisers(pipe):
            cast_layers(denoiser, dtype)
    _set_switches(pipe, model, runtime)
    with _explained("model.path", model.path):
        return _place(pipe, runtime.offload, target)


def settled(model: config.Model, runtime: config.Runtime) -> config.Model:
    """``model`` with its family and its precisions in place of ``auto``, as records want it.

    Raises:
        UserError: the model has no family, or this machine no such device.
    """
    device = torch_device(runtime.device)
    dtype = dtype_on(device, model.dtype)
    cast = autocast_on(device, model.autocast, dtype)
    precisions = {"dtype": _name(dtype), "autocast": _name(cast) if cast else "off"}
    return with_family(model).model_copy(update=precisions)


def load_preview(source: config.Preview, pipe: Any) -> Any:
    """Load the tiny autoencoder that previews the latents of ``pipe``.

    Raises:
        UserError: no such folder or hub id, or it is for latents with other channels.
    """
    assert source.path is not None  # of a tiny one
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
    _check_channels("model.preview.path", source.path, preview, pipe)
    return preview.eval().to(pipe._execution_device)


def _autoencoder(source: config.Autoencoder, pipe: Any) -> Any:
    """What is to decode in place of the autoencoder of ``pipe``; a file holds one of its kind.

    Raises:
        UserError: no such file, folder or hub id, or it is for other latents.
    """
    own, path, place = getattr(pipe, "vae", None), Path(source.path), "model.vae.path"
    if own is None:
        raise UserError(f"model.vae: {type(pipe).__name__} has no autoencoder")
    in_file = path.is_file() and path.suffix == FILE
    if not in_file and not path.is_dir():
        check_pinned(source.path, source.revision, "model.vae")
        patterns = ["config.json", "*" + FILE]
        path = hub.snapshot(source.path, str(source.revision), patterns, "model.vae")
    with no_progress_bars(), _explained(place, source.path), TemporaryDirectory() as layout:
        if in_file:
            own.save_config(Path(layout, "vae"))
            kind = ("diffusers", type(own).__name__)
            vae = _part_in_file(kind, path, Path(layout), "vae", own.dtype)
        else:
            named = str(own.load_config(path).get("_class_name"))
            if not hasattr(getattr(diffusers, named, None), "decode"):
                raise UserError(f"{place}: {source.path} is no autoencoder of diffusers")
            vae = _class(("diffusers", named)).from_pretrained(
                str(path),
                dtype=own.dtype,
                variant=_variant_in(path.parent, path.name, own.dtype) or None,
                local_files_only=True,
                use_safetensors=True,
            )
    if any(tensor.is_meta for tensor in vae.parameters()):
        raise UserError(f"{place}: {source.path} lacks weights of a {type(vae).__name__}")
    _check_channels(place, source.path, vae, pipe)
    return vae.eval()


def _check_channels(place: str, path: str, vae: Any, pipe: Any) -> None:
    """Refuse an autoencoder of other latents than those of a pipeline."""
    found, wanted = (
        one.config.get("latent_channels") or one.config.z_dim for one in (vae, pipe.vae)
    )
    if found != wanted:
        raise UserError(f"{place}: {path} decodes {found} channels, not the {wanted} of the model")


@contextmanager
def _explained(place: str, path: str) -> Iterator[None]:
    """Turn what diffusers and transformers raise about files into one line."""
    try:
        yield
    except (
        OSError, ValueError, RuntimeError, ImportError, SafetensorError, SingleFileComponentError
    ) as error:  # fmt: skip
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


def _from_folder(
    pipeline_class: Any, folder: Path, model: config.Model, dtype: torch.dtype, **given: Any
) -> Any:
    """A pipeline from its folder, with parts that are given in place of those in the folder."""
    index = _checked_index(pipeline_class, folder, given)
    named = {
        name: kind
        for name, kind in parts(index).items()
        if name not in given
        and (_variant_in(folder, name, dtype) or quantizer(model, name, kind[0], dtype))
    }
    given |= {name: _load_part(folder, name, kind, model, dtype) for name, kind in named.items()}
    return pipeline_class.from_pretrained(
        str(folder),
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        **_left_out(pipeline_class),
        **given,
    )


def _load_part(
    folder: Path, name: str, kind: tuple[str, str], model: config.Model, dtype: torch.dtype
) -> Any:
    """A part of a pipeline, by its library and class, of the variant that fits the precision."""
    with no_warnings():
        return _class(kind).from_pretrained(
            str(folder / name),
            dtype=dtype,
            variant=_variant_in(folder, name, dtype) or None,
            local_files_only=True,
            use_safetensors=True,
            **quantizer(model, name, kind[0], dtype),
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
        given = {denoiser: _part_in_file(kinds[denoiser], file, layout, denoiser, dtype)}
        pipe = _from_folder(pipeline_class, layout, model, dtype, **given)
    else:
        others = {
            name: _load_part(layout, name, kinds[name], model, dtype)
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
    if model.quantization == "int8" and file.suffix == FILE:
        pack_layers(_denoisers(pipe)[0])
    return pipe


def _part_in_file(
    kind: tuple[str, str], file: Path, layout: Path, part: str, dtype: torch.dtype
) -> Any:
    """A part of a pipeline from a file of its own, with the config that it has in a folder."""
    one = _class(kind)
    if kind[1] in SINGLE_FILE_LOADABLE_CLASSES:
        try:
            return one.from_single_file(
                str(file),
                config=str(layout),
                subfolder=part,
                dtype=dtype,
                local_files_only=True,
                **gguf_quantizer(file, dtype),
            )
        except LookupError as error:
            raise UserError(f"model.path: {file} lacks weights of a {kind[1]}") from error
    if file.suffix != FILE:
        raise UserError(f"model.path: {file}: a {kind[1]} is read from {FILE} files only")
    model = one.from_config(one.load_config(layout / part))
    model.load_state_dict(load_file(file))
    return model.to(dtype).eval()


def _class(kind: tuple[str, str]) -> Any:
    """A class by its library and its name."""
    library, name = kind
    return getattr(import_module(library), name)


def _denoisers(pipe: Any) -> list[Any]:
    """The U-Net or transformer of a pipeline, or both transformers that share its steps."""
    parts = (getattr(pipe, name, None) for name in ("unet", "transformer", "transformer_2"))
    return [part for part in parts if part is not None]


def _left_out(pipeline_class: Any) -> dict[str, Any]:
    known = inspect.signature(pipeline_class.__init__).parameters
    left_out: dict[str, Any] = {**dict.fromkeys(NOT_LOADED), "requires_safety_checker": False}
    return {name: value for name, value in left_out.items() if name in known}


def _place(pipe: Any, offload: str, device: torch.device) -> Any:
    if offload == "none":
        pipe.to(device)
        if device.type == "cuda" and hasattr(pipe, "unet"):
            # The order of numbers in which convolutions are fastest there.
            pipe.unet.to(memory_format=torch.channels_last)
        return pipe
    if device.type == "cpu":
        raise UserError(f"runtime.offload: {offload} needs a GPU as runtime.device, not the CPU")
    match offload:
        case "model":
            pipe.enable_model_cpu_offload(device=device)
            one_at_a_time(pipe)
        case "group":
            # Tiles would change the order of layers, in which a stream fetches them ahead.
            pipe.enable_group_offload(
                device, offload_type="leaf_level", use_stream=True, exclude_modules="vae"
            )
        case _:
            pipe.enable_sequential_cpu_offload(device=device)
    return pipe


class Others(UserCpuOffloadHook):
    """The parts of a pipeline that leave the device when another one is to run.

    Attributes:
        hooks: theirs.
    """

    def __init__(self, hooks: list[UserCpuOffloadHook]) -> None:
        self.hooks = hooks

    @property
    def model(self) -> torch.nn.Module:
        """One that is on the device, if any is."""
        parts: list[torch.nn.Module] = [hook.model for hook in self.hooks]
        return next((p for p in parts if next(p.parameters()).device.type != "cpu"), parts[0])

    def offload(self) -> None:
        for hook in self.hooks:
            hook.offload()


def one_at_a_time(pipe: Any) -> None:
    """Let each part of an offloaded pipeline push off whichever other one is on the device.

    diffusers has it push off the part that comes before it in a call. A search goes back: from a
    check to the denoiser, and from a second denoiser to the first.
    """
    hooks = pipe._all_hooks
    for own in hooks if len(hooks) > 1 else ():
        own.hook.prev_module_hook = Others([hook for hook in hooks if hook is not own])


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
    if runtime.attention is not None:
        try:
            with no_warnings():
                for denoiser in _denoisers(pipe):
                    denoiser.set_attention_backend(runtime.attention)
        except (ValueError, RuntimeError, ImportError) as error:
            raise UserError(
                f"runtime.attention: {runtime.attention}: {_one_line(error)}"
            ) from error
    if runtime.compile:
        for denoiser in _denoisers(pipe):
            compile_denoiser(denoiser)


@contextmanager
def no_deprecations() -> Iterator[None]:
    """Let diffusers use what it deprecates itself, such as the embeddings of Chroma."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"diffusers\.")
        yield


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
    for name, kind in parts(index).items():
        part = folder / name
        if not part.is_dir():
            raise UserError(f"model.path: {folder} has no folder {name}")
        needed = getattr(getattr(transformers, kind[1], None), "_backends", [])
        if missing := [package for package in needed if find_spec(package) is None]:
            raise UserError(f"model.path: the {name} of {folder} needs {', '.join(missing)}")
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
