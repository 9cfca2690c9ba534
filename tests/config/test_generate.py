"""The YAML and the schema that are generated from the settings."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from ttsnap.config import DEFAULT_YAML, Config, Settings, load_config
from ttsnap.config.generate import SCHEMA_JSON, default_yaml, json_schema, to_yaml
from ttsnap.run.check import names


def test_generated_files_are_up_to_date() -> None:
    """If not: ``python -m ttsnap.config.generate``."""
    assert DEFAULT_YAML.read_text() == default_yaml()
    assert json.loads(SCHEMA_JSON.read_text()) == json_schema(**names())


def test_the_default_file_holds_every_key_and_loads_as_the_defaults() -> None:
    written = yaml.safe_load(default_yaml())
    # What records leave out where it is not set.
    unset = {"components": None, "vae": None, "quantization": None, "loras": []}
    assert {name: written["model"].pop(name) for name in unset} == unset
    assert written["sampling"].pop("guidance_options") == {}
    assert written == Config().model_dump()
    assert load_config(DEFAULT_YAML) == Config()
    assert max(map(len, default_yaml().splitlines())) <= 100


def test_every_setting_is_described() -> None:
    def sections(kind: type[Settings]) -> set[type[Settings]]:
        found = kind.__subclasses__()
        return {*found, *(deeper for section in found for deeper in sections(section))}

    # Stages, where another test has imported them, have settings of their own.
    for section in sections(Settings):
        if not section.__module__.startswith("ttsnap.config."):
            continue
        assert section.__doc__, section
        for name, field in section.model_fields.items():
            is_section = isinstance(field.annotation, type) and issubclass(
                field.annotation, Settings
            )
            assert is_section or field.description, f"{section.__name__}.{name}"


def test_settings_survive_their_yaml(tmp_path: Path) -> None:
    config = load_config(
        {
            "model": {"path": "org/name", "revision": "abc123" + "0" * 34},
            "sampling": {"scheduler": {"options": {"eta": 0.5, "nested": {"a": [1, None]}}}},
            "splits": {"val": {"file": "my prompts: 'é'.json", "steps": [0, 1, 2, 3, 4, 5, 6]}},
            "rewards": {"one": {"path": "./one"}, "2": {"path": "./two"}},
            "search": {"reward": "2"},
        }
    )
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(path) == config


def test_the_schema_agrees_with_the_models() -> None:
    schema = json_schema(**names())
    jsonschema.Draft202012Validator.check_schema(schema)
    for good in ({}, yaml.safe_load(default_yaml()), {"splits": {"val": {"stop": 2050}}}):
        jsonschema.validate(good, schema)
    for bad in [
        {"narf": {"lora": {"rnk": 1}}},
        {"seed": "1"},
        {"simulation": {"draws": 0}},
        {"model": {"family": "stable"}},
        {"search": {"methods": ["bem"]}},
        {"search": {"options": {"bem": {}}}},
    ]:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)
