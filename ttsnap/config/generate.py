"""The commented YAML of the defaults, and the JSON schema of a configuration."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import yaml

from ttsnap.config._base import ROOT, Settings
from ttsnap.config.loading import DEFAULT_YAML
from ttsnap.config.run import Config

SCHEMA_JSON = ROOT / "workflow/schemas/config.schema.json"

WIDTH = 92  # of the generated YAML, before indentation


def to_yaml(config: Config) -> str:
    """``config`` as commented YAML that :func:`load_config` reads back unchanged."""
    lines = [
        "# Settings of a run. The file may be shortened: what is left out takes the default.",
        "# Defaults are those of ttsnap/config; `python -m ttsnap.config.generate` writes this.",
        "",
        *_yaml_lines(config, seen=set()),
    ]
    return "\n".join(lines) + "\n"


def _yaml_lines(section: Settings, seen: set[type[Settings]]) -> Iterator[str]:
    """The keys of a section; a model is described where it first occurs in the file."""
    described = type(section) in seen
    seen.add(type(section))
    fields = {
        name: (getattr(section, name), field) for name, field in type(section).model_fields.items()
    }
    short = [
        len(text)
        for name, (value, field) in fields.items()
        if _nested(value, seen) is None
        and len(text := f"{name}: {_flow(value)}") + len(field.description or "") <= WIDTH - 4
    ]
    after_block = False
    for name, (value, field) in fields.items():
        nested = _nested(value, seen)
        if isinstance(section, Config) and (after_block or nested is not None):
            yield ""
        after_block = nested is not None
        if nested is None:
            text = f"{name}: {_flow(value)}"
            beside = f"{text:{max(short, default=0)}}  # {field.description}"
            if described:
                yield text
            elif len(beside) <= WIDTH:
                yield beside
            else:
                yield f"# {field.description}"
                yield text
            continue
        comment = field.description
        if isinstance(value, Settings):
            comment = None if type(value) in seen else type(value).__doc__
        if comment:
            yield f"# {comment}"
        yield f"{name}:"
        yield from _indent(nested)


def _indent(lines: Iterable[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)


def _nested(value: Any, seen: set[type[Settings]]) -> Iterator[str] | None:
    """The lines below the key of a section, or of a list or dict of sections."""
    match value:
        case Settings():
            return _yaml_lines(value, seen)
        case [Settings(), *_]:
            return (f"- {_flow(item.model_dump())}" for item in value)
        case dict() if any(isinstance(item, Settings) for item in value.values()):
            return (
                line
                for key, item in value.items()
                for line in (f"{_flow(key)}:", *_indent(_yaml_lines(item, seen)))
            )
    return None


def _flow(value: Any) -> str:
    """A value on one line."""
    text = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6
    )
    return text.removesuffix("...\n").rstrip("\n")


def default_yaml() -> str:
    """The commented ``config/config.yaml`` of the embedded default."""
    return to_yaml(Config())


def json_schema(
    *, families: Sequence[str], methods: Sequence[str], kinds: Sequence[str]
) -> dict[str, Any]:
    """The JSON schema of a config file.

    Args:
        families: of models.
        methods: of search.
        kinds: of rewards that come with the package; there may be others.
    """
    schema: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema |= Config.model_json_schema()
    sections = schema["$defs"]
    search = sections["Search"]["properties"]
    for key, names in [
        (sections["Model"]["properties"]["family"], {"enum": list(families)}),
        (search["methods"]["items"], {"enum": list(methods)}),
        (search["options"]["propertyNames"], {"enum": list(methods)}),
        (sections["RewardSettings"]["properties"]["kind"], {"examples": list(kinds)}),
    ]:
        key |= names
    return schema


if __name__ == "__main__":
    # A program at the top: what is imported from here imports no registry.
    from ttsnap.run.check import names

    DEFAULT_YAML.write_text(default_yaml())
    SCHEMA_JSON.parent.mkdir(parents=True, exist_ok=True)
    SCHEMA_JSON.write_text(json.dumps(json_schema(**names()), indent=2) + "\n")
