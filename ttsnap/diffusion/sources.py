"""Where a model lies and what its files say of it, read without torch or diffusers.

A model is a folder in diffusers layout, a repository of the hub in that layout, or one file: a
.safetensors of a whole pipeline or of its denoiser, or a .gguf of its denoiser, whose other parts
come from such a folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ttsnap import config, hub
from ttsnap.config import COMMIT, FILE, FILES, HUB_ID, is_hub_id
from ttsnap.diffusion.families import SAMPLERS
from ttsnap.diffusion.headers import header
from ttsnap.errors import UserError

PIPELINES = {family.pipeline: name for name, family in SAMPLERS.items()}
"""Class of a diffusers pipeline -> the family that drives it."""

INDEX = "model_index.json"

TEXTS = ("*.json", "*.txt", "*.model", "*.jinja")
"""Patterns of the configs and tokenizers of a repository."""

NOT_LOADED = ("safety_checker", "feature_extractor")
"""Components that take no part in sampling."""

LORA = re.compile(rf"({HUB_ID})(?:@(\w+))?(?::([^:]*\{FILE}))?")

_VARIANT = re.compile(
    r"(?:diffusion_pytorch_)?model(?:\.(\w+))?(?:-\d{5}-of-\d{5})?(?:\.(\w+))?\.safetensors"
)
_WANTED = {
    "float32": ("", "fp32", "fp16", "bf16"),
    "float16": ("fp16", "", "fp32", "bf16"),
    "bfloat16": ("bf16", "", "fp32", "fp16"),
}
"""Precision -> variants of the weights, the best first; the empty one has no name."""

_HELD = {
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": (
        "cond_stage_model.",
        "conditioner.embedders.0.",
        "text_encoders.clip_l.",
    ),
    "text_encoder_2": ("conditioner.embedders.1.", "text_encoders.clip_g."),
    "text_encoder_3": (),
    "transformer_2": (),
}
"""Part of a pipeline -> how the keys of its weights begin in a file of the original layout."""

_T5 = ("text_encoders.t5xxl.",)


def find_family(path: str, revision: str | None = None, components: str | None = None) -> str:
    """The family of a model, as its ``model_index.json`` says, or the keys of its file.

    Args:
        path: folder, .safetensors or .gguf file, or hub id.
        revision: commit of a hub id.
        components: of a file whose keys do not tell: folder, or ORG/NAME@COMMIT.

    Raises:
        UserError: there is no such model, or no family for it.
    """
    if path.endswith(FILES):
        return _family_of_file(path, components)
    return _family_of_index(model_index(path, revision), path)


def _family_of_index(index: Mapping[str, Any], place: str) -> str:
    found = index["_class_name"]
    if found not in PIPELINES:
        raise UserError(
            f"model.path: {place} is a {found}, which no family drives; there are "
            f"{', '.join(PIPELINES)}"
        )
    return PIPELINES[found]


def _family_of_file(path: str, components: str | None) -> str:
    from ttsnap.diffusion.checkpoints import FAMILIES, kind_of

    kind = kind_of(Path(path))
    if kind in FAMILIES:
        return FAMILIES[kind]
    if kind is not None:
        raise UserError(f"model.path: {path} is a {kind}, which no family drives")
    if components is None:
        raise UserError(
            f"model.path: the keys of {path} do not tell its family; name it, as FAMILY:PATH or "
            "model.family"
        )
    return _family_of_index(model_index(*split(components)), components)


def with_family(model: config.Model) -> config.Model:
    """``model`` with the family that its files say, where that is left to them.

    Raises:
        UserError: see :func:`find_family`.
    """
    if model.family != "auto":
        return model
    family = find_family(model.path, model.revision, model.components)
    return model.model_copy(update={"family": family})


def in_precision_of(record: Mapping[str, Any], model: config.Model) -> config.Model:
    """``model`` in the precisions that a record of its run says, where settings leave them open."""
    known = {"dtype": record.get("dtype", model.dtype), "autocast": record.get("autocast", "off")}
    return model.model_copy(update=known)


def model_index(path: str, revision: str | None = None) -> dict[str, Any]:
    """What ``model_index.json`` says; only that file is read.

    Args:
        path: folder or hub id.
        revision: commit of a hub id.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if Path(path).is_dir():
        file = Path(path, INDEX)
    else:
        check_pinned(path, revision)
        file = hub.download(path, str(revision), INDEX, "model")
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(index["_class_name"], str):
            raise TypeError
    except FileNotFoundError:
        raise UserError(f"model.path: {path} has no {INDEX}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file}: expected JSON with a _class_name") from None
    return index


def check_pinned(path: str, revision: str | None, place: str = "model") -> None:
    """Refuse what is no folder and no hub id with its commit.

    Raises:
        UserError: ``path`` is neither.
    """
    if path.endswith(FILES):
        raise UserError(f"{place}.path: {path}: no such file")
    if Path(path).is_file():
        raise UserError(f"{place}.path: {path}: only {' and '.join(FILES)} files are read")
    if revision is None or not re.fullmatch(HUB_ID, path):
        raise UserError(
            f"{place}.path: {path} is neither a folder nor a hub id with {place}.revision set"
        )


def split(text: str) -> tuple[str, str | None]:
    """Path and revision of a folder, or of ``ORG/NAME@COMMIT`` on the hub."""
    path, _, revision = (text, "", "") if Path(text).exists() else text.partition("@")
    return path, revision or None


def parts(index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """The parts of a pipeline that take part in sampling: name -> library and class."""
    return {
        name: (kind[0], kind[1])
        for name, kind in index.items()
        if isinstance(kind, list) and kind[0] is not None and name not in NOT_LOADED
    }


def variant(names: Iterable[str], dtype: str) -> str | None:
    """Which variant of a part's weights is best for a precision.

    Args:
        names: of the files of the part, without folders.
        dtype: float32, float16 or bfloat16; for auto as for float32.

    Returns:
        Such as ``fp16``; empty for weights that are named by none; None if there are no weights.
    """
    matches = [match for name in names if (match := _VARIANT.fullmatch(name))]
    found = {match[1] or match[2] or "" for match in matches}
    wanted = _WANTED.get(dtype, _WANTED["float32"])
    return next((name for name in wanted if name in found), None)


def held(keys: Iterable[str], index: Mapping[str, Any]) -> set[str]:
    """Which parts of a pipeline are in a file with these keys, beside the denoiser."""
    found = set()
    keys = list(keys)
    for name, (_, kind) in parts(index).items():
        prefixes = _T5 if kind == "T5EncoderModel" else _HELD.get(name, ())
        if any(key.startswith(prefixes) for key in keys):
            found.add(name)
    return found


def lacking(path: str, components: str) -> Iterator[str]:
    """Parts with weights that the model in a file takes from its components.

    Raises:
        UserError: the file or ``model_index.json`` of the components cannot be read.
    """
    index = model_index(*split(components))
    has = {"unet", "transformer"} | held(header(Path(path)), index)
    yield from (name for name in parts(index) if name in _HELD and name not in has)


def read_model(
    text: str,
    *,
    loras: Sequence[str] = (),
    components: str | None = None,
    say: Callable[[str], None],
) -> config.Model:
    """The model that ``[FAMILY:]PATH`` or ``[FAMILY:]ORG/NAME[@COMMIT]`` names.

    Of a hub id without a commit the newest is looked up, and said. So are those of the configs
    that a single file of SD 1.5 or SDXL lacks.

    Args:
        text: PATH is a folder, or a .safetensors or .gguf file.
        loras: see :func:`read_lora`.
        components: of a file: folder, or ORG/NAME[@COMMIT].
        say: shows a line to the user.

    Returns:
        What a config would say, everything pinned and with its family.

    Raises:
        UserError: there is no such model, or the family is another one.
    """
    family, _, path = text.partition(":")
    if family not in SAMPLERS or not path:  # a folder may be called as a family is
        family, path = "", text
    path, revision = pinned(path, say)
    if path.endswith(FILES) and components is None:
        from ttsnap.diffusion.checkpoints import default_components

        components = default_components(Path(path))
    if components is not None:
        components = "@".join(filter(None, pinned(components, say)))
    try:
        found = find_family(path, revision, components)
    except UserError:
        # A file whose keys do not tell it is what the user says it is.
        if not family or not Path(path).is_file():
            raise
        found = family
    if family and family != found:
        raise UserError(f"--model {text}: {path} is of family {found}, not {family}")
    given = {
        "family": found,
        "path": path,
        "revision": revision,
        "components": components,
        "loras": [read_lora(lora, say) for lora in loras],
    }
    return config.load_config({"model": given}).model


def pinned(text: str, say: Callable[[str], None]) -> tuple[str, str | None]:
    """Path and commit of a folder, a file, or ``ORG/NAME[@COMMIT]``, whose newest is looked up.

    Args:
        text: may end with a branch or a tag in place of a commit.
        say: shows a line to the user.

    Raises:
        UserError: no commit of the repository is known, neither to the hub nor to the cache.
    """
    path, revision = split(text)
    if not is_hub_id(path) or re.fullmatch(COMMIT, revision or ""):
        return path, revision
    commit, where = hub.newest_commit(path, revision)
    if where == "hub":
        say(f"{path}: its newest commit is {commit}")
    else:
        say(f"{path}: the hub cannot be asked; the newest commit in the cache is {commit}")
    return path, commit


def read_lora(text: str, say: Callable[[str], None]) -> dict[str, Any]:
    """What ``PATH[:SCALE]`` or ``ORG/NAME[@COMMIT][:FILE][:SCALE]`` says, as a config does.

    Args:
        text: PATH is a .safetensors file, or a folder with one.
        say: shows a line to the user.

    Raises:
        UserError: there is no such file or repository, or it has several to choose from.
    """
    scaled = None if Path(text).exists() else re.fullmatch(r"(.+):(-?\d*\.?\d+)", text)
    path, scale = (scaled[1], float(scaled[2])) if scaled else (text, 1.0)
    if Path(path).exists():
        return {"path": path, "scale": scale}
    match = LORA.fullmatch(path)
    if match is None or (path.endswith(FILE) and match[3] is None):
        raise UserError(f"--lora {path}: no such file, and not ORG/NAME[@COMMIT][:FILE]")
    repository, commit, file = match.groups()
    _, commit = pinned("@".join(filter(None, (repository, commit))), say)
    file = file or pick_lora(hub.files_of(repository, str(commit)), f"--lora {path}")
    return {"path": repository, "revision": commit, "weight": file, "scale": scale}


def lora_file(lora: config.GeneratorLora, place: str) -> Path:
    """The file of a LoRA on this machine, from the hub if need be.

    Args:
        lora: of a config.
        place: that names it, for errors.

    Raises:
        UserError: there is none, or several.
    """
    path = Path(lora.path)
    if path.is_dir():
        names = [lora.weight] if lora.weight else [file.name for file in path.iterdir()]
        path = path / pick_lora(names, f"{place}.path: {path}")
    if path.is_file():
        if path.suffix != FILE:
            raise UserError(f"{place}.path: {path}: only {FILE} files are read")
        return path
    check_pinned(lora.path, lora.revision, place)
    return hub.download(lora.path, str(lora.revision), lora.weight or "", place)


def pick_lora(names: Sequence[str], place: str) -> str:
    """The file of a LoRA among others.

    Raises:
        UserError: there is none, or several; the message begins with ``place``.
    """
    usual = "pytorch_lora_weights.safetensors"
    files = sorted(name for name in names if name.endswith(FILE))
    if usual in files:
        return usual
    if len(files) != 1:
        found = f"several, name one of {', '.join(files)}" if files else "none there"
        raise UserError(f"{place}: expected one {FILE} file; there are {found}"[:400])
    return files[0]


def described(model: config.Model) -> str:
    """A model in one line for records: path, commit, quantization, autoencoder, LoRAs."""

    def at(path: str, revision: str | None) -> str:
        return path if revision is None else f"{path}@{revision}"

    vae = [] if model.vae is None else [f"vae {at(model.vae.path, model.vae.revision)}"]
    loras = [
        f"{at(lora.path, lora.revision)}{f':{lora.weight}' if lora.weight else ''}:{lora.scale:g}"
        + (" (second)" if lora.second else "")
        for lora in model.loras
    ]
    weights = f" in {model.quantization}" if model.quantization else ""
    return " + ".join([at(model.path, model.revision) + weights, *vae, *loras])


def model_files(model: config.Model) -> dict[str, Path]:
    """All files of weights on this machine that a model is made of, by their names in it.

    What comes from the hub is pinned by its commit, and left out.
    """
    roots = {"": model.path}
    if model.components is not None:
        roots["components/"] = model.components
    if model.vae is not None:
        roots["vae/"] = model.vae.path
    roots |= {f"loras/{index}/": lora.path for index, lora in enumerate(model.loras)}
    found = {}
    for name, path in roots.items():
        root = Path(path)
        if root.is_file():
            found[name + root.name] = root
        for file in sorted(root.rglob("*" + FILE)):
            found[name + file.relative_to(root).as_posix()] = file
    return found
