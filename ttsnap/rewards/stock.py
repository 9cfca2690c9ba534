"""Models of transformers and files of weights, from folders and the hub.

What comes from beside the reward's own path is named by a text: a local path, or a place on the
hub with the commit that pins it, ``ORG/NAME@COMMIT``, for one file ``ORG/NAME@COMMIT:FILE``.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttsnap.errors import UserError

if TYPE_CHECKING:
    import torch

BYTES = 256  # the least that a byte-level tokenizer knows
_ON_HUB = re.compile(r"(?P<path>[\w.-]+/[\w.-]+)@(?P<revision>\w+)(:(?P<file>.+))?")


def model_type(path: str, revision: str | None) -> str | None:
    """What kind of model the config of a folder or hub id says it is.

    Raises:
        UserError: there is no config.
    """
    from transformers import PreTrainedConfig

    try:
        return PreTrainedConfig.get_config_dict(path, revision=revision)[0].get("model_type")
    except OSError as error:
        raise _unusable(path, error) from None


def load_model(
    kind: Any, path: str | None, revision: str | None, place: object = None, **options: Any
) -> Any:
    """Load a model of transformers, all of its weights, in float32 if no option says otherwise.

    Args:
        kind: model class, or an Auto class.
        path: local folder, or hub id; none if the options hold config and weights.
        revision: commit of a hub id.
        place: where the weights are from, if not from ``path``.
        options: further ones of ``from_pretrained``.

    Raises:
        UserError: it cannot be had, or lacks weights, which transformers would draw at random.
    """
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    try:
        model, info = kind.from_pretrained(
            path,
            revision=revision,
            use_safetensors=True,
            output_loading_info=True,
            **{"dtype": torch.float32} | options,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise _unusable(place or path, error) from None
    if missing := sorted(info["missing_keys"]):
        raise UserError(f"{place or path}: the weights lack {missing[0]}")
    return model


def load_tokenizer(path: str, revision: str | None, kind: Any = None) -> Any:
    """Load a tokenizer of transformers, of class ``kind`` where it matters which.

    Raises:
        UserError: there is none; transformers would make up an empty one.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = (kind or AutoTokenizer).from_pretrained(path, revision=revision)
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from None
    if len(tokenizer) < BYTES:
        raise UserError(f"{path}: no tokenizer here")
    return tokenizer


def load_processor(kind: Any, path: str, revision: str | None, **options: Any) -> Any:
    """Load an image processor of transformers.

    Raises:
        UserError: there is none.
    """
    try:
        return kind.from_pretrained(path, revision=revision, **options)
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from None


def repository(text: str, place: str) -> tuple[str, str | None]:
    """Path and revision that ``text`` names: a local folder or ``ORG/NAME@COMMIT``.

    Raises:
        UserError: it is neither; ``place`` names the setting.
    """
    if Path(text).is_dir():
        return text, None
    match = _ON_HUB.fullmatch(text)
    if match is None or match["file"]:
        raise UserError(f"{place}: {text} is neither a local folder nor ORG/NAME@COMMIT")
    return match["path"], match["revision"]


def file_of(text: str, place: str) -> Path:
    """The file that ``text`` names: a local one or ``ORG/NAME@COMMIT:FILE``, downloaded.

    Raises:
        UserError: there is none; ``place`` names the setting.
    """
    if Path(text).is_file():
        return Path(text)
    match = _ON_HUB.fullmatch(text)
    if match is None or not match["file"]:
        raise UserError(f"{place}: {text} is neither a local file nor ORG/NAME@COMMIT:FILE")
    return file_in(match["path"], match["revision"], match["file"])


def file_in(path: str, revision: str | None, file: str) -> Path:
    """A file of a local folder, or of a hub id, downloaded.

    Raises:
        UserError: it is not there.
    """
    if Path(path).is_dir():
        if not (found := Path(path, file)).is_file():
            raise UserError(f"{path}: no {file} here")
        return found
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(path, file, revision=revision))
    except (OSError, ValueError) as error:
        raise _unusable(f"{path}: {file}", error) from None


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """Tensors by name of a safetensors file, or of a torch checkpoint that holds nothing else.

    Raises:
        UserError: it is damaged or holds more than tensors, whose unpickling could run code.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{file}: cannot be read as weights ({_line(error)})") from None
    if not isinstance(state, dict):
        raise UserError(f"{file}: expected weights by name, found a {type(state).__name__}")
    state = state.get("state_dict", state)
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def load_state(module: torch.nn.Module, state: dict[str, torch.Tensor], file: Path) -> None:
    """Give a module weights that fit it exactly.

    Raises:
        UserError: some are missing, too many, or of another shape.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{file}: not the weights of this model ({_line(error, 1)})") from None


def _unusable(place: object, error: Exception) -> UserError:
    return UserError(f"{place}: cannot be used ({_line(error)})")


def _line(error: Exception, number: int = 0) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[min(number, len(lines) - 1)] if lines else type(error).__name__
