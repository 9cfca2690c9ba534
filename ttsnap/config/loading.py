"""Configurations from files and mappings; what is wrong with one is told in one line each."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ttsnap.config._base import ROOT, Settings
from ttsnap.config.run import Config
from ttsnap.errors import UserError, did_you_mean

DEFAULT_YAML = ROOT / "config/config.yaml"


def load_config(source: Mapping[str, Any] | str | Path) -> Config:
    """Read a config file, or a mapping such as Snakemake's merged ``config``.

    Raises:
        UserError: one line per problem: the file (``config`` for a mapping), the key's path, why.
    """
    if source == DEFAULT_YAML and not DEFAULT_YAML.exists():
        return Config()  # which is what the file says; an installed package comes without it
    if isinstance(source, Mapping):
        label, given = "config", dict(source)
    else:
        label, given = str(source), _read_yaml(Path(source))
    try:
        return Config.model_validate(given)
    except ValidationError as error:
        lines = [f"{label}: {explain(detail)}" for detail in error.errors()]
        raise UserError("\n".join(lines)) from None


def typed(value: Any) -> Any:
    """What was given as ``--config KEY={…}``: Snakemake leaves numbers in there as text."""
    match value:
        case Mapping():
            return {key: typed(item) for key, item in value.items()}
        case list():
            return [typed(item) for item in value]
        case str():
            return yaml.safe_load(value)
    return value


def _read_yaml(path: Path) -> Any:
    try:
        text = path.read_bytes()
        # JSON's 5e-7 is no number to YAML.
        given = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{mark.line + 1}:{mark.column + 1}" if mark else "?"
        raise UserError(f"{path}:{place}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict | None):
        raise UserError(f"{path}: expected sections of settings, not a {type(given).__name__}")
    return given or {}


def explain(error: ErrorDetails, root: type[Settings] = Config) -> str:
    """One line for a pydantic error about ``root``: the key's path and what was expected there."""
    loc = [part for part in error["loc"] if part != "[key]"]
    value = json.dumps(error["input"], default=str, ensure_ascii=False)
    value = value if len(value) <= 60 else value[:57] + "…"
    match error["type"]:
        case "extra_forbidden":
            text = "unknown key" + _suggest(loc, root)
        case "missing":
            text = "is missing"
        case "model_type":
            text = f"should be a section of settings, not {value}"
        case "impossible":
            text = error["msg"]
        case "float_type" if re.fullmatch(r'"[-+]?\d+e[-+]?\d+"', value, re.IGNORECASE):
            text = f"should be a number, not the text {value}; YAML wants it like 1.0e-3"
        case _:
            words = error["msg"].removeprefix("Input ").removeprefix("String ")
            text = f"{words[0].lower()}{words[1:]}, not {value}"
    return f"{'.'.join(map(str, loc))}: {text}"


def _suggest(loc: list[str | int], root: type[Settings]) -> str:
    """The nearest known key to the unknown one at ``loc`` in ``root``."""
    section: Any = root
    for part in loc[:-1]:
        if type(None) in get_args(section):
            section = get_args(section)[0]  # of what may be null
        if isinstance(section, type) and issubclass(section, Settings):
            section = section.model_fields[str(part)].annotation
        else:
            section = get_args(section)[-1]  # the items of a list or a dict
    return did_you_mean(str(loc[-1]), section.model_fields)
