"""docs/models.md is in step with the registry, the architectures and the configurations."""

from __future__ import annotations

import pytest

from docs import models
from ttsnap.config import load_config
from ttsnap.diffusion.families import SAMPLERS
from ttsnap.diffusion.published import ARCHITECTURES

PAGE = models.PAGE.read_text(encoding="utf-8")
COUNTED = slice(7, 12)


def shown() -> dict[str, list[str]]:
    """The rows of the table by the names of their models."""
    below = PAGE.partition("\n".join(models.HEAD) + "\n")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in below.splitlines()]
    return {row[0]: row for row in rows}


def test_every_family_and_every_architecture_has_a_row() -> None:
    assert list(shown()) == list(models.MODELS) == list(ARCHITECTURES)
    assert {known.family for known in models.MODELS.values()} == set(SAMPLERS)
    assert len(SAMPLERS) >= 14


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("sd15", "sana") else [pytest.mark.slow])
        for name in models.MODELS
    ],
)
def test_a_row_is_as_counted(name: str) -> None:
    """If not: ``python docs/models.py``."""
    assert shown()[name] == models.row(name)


def test_rows_are_as_the_registry_and_the_configurations_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All but what is counted."""
    for name, row in shown().items():
        monkeypatch.setattr(models, "counted", lambda name, row=row: row[COUNTED])
        assert row == models.row(name)


@pytest.mark.parametrize("path", sorted(models.CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_configuration_s_licence_and_commits_are_on_the_page(path) -> None:
    text, config = path.read_text(encoding="utf-8"), load_config(path)
    for source in (config.model, *config.model.loras):
        if source.revision is not None:
            assert f"| {source.path} | `{source.revision}` |" in PAGE
    for known in models.MODELS.values():
        if known.usual == path.stem and path.stem != "edm":
            assert f"# Licence: {known.licence}" in text
