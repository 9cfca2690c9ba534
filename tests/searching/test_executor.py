"""Executor."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.sampling import with_little_memory
from tests.searches import (
    LAST,
    Models,
    images_close,
)
from ttsnap.searching.executor import Interrupted


def test_an_interruption_says_where(models: Models) -> None:
    run = models.executor("best-of-n")
    run.task = replace(run.task, cancelled=lambda: True)
    with pytest.raises(Interrupted) as caught:
        run.reach(run.start(2), LAST)
    assert len(caught.value.cohort) == 2
    assert run.meter.evaluations == 0


@pytest.mark.parametrize("name", ["ttsnap", "beam"])
def test_little_memory_changes_nothing(
    models: Models, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = models.search(name)
    sampler = models.sampler(name)
    tried = with_little_memory(sampler, monkeypatch)
    pieces = models.search(name)
    assert max(tried["evaluate"]) > 2 >= tried["evaluate"][-1]
    assert max(tried["decode"]) > 1 == tried["decode"][-1]
    assert images_close(whole.image, pieces.image)
    assert [c.noises for c in whole.candidates] == [c.noises for c in pieces.candidates]
    assert (whole.nfe, whole.decodes, whole.spent) == (pieces.nfe, pieces.decodes, pieces.spent)
