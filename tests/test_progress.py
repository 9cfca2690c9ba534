"""Progress lines of a job's log."""

from __future__ import annotations

import itertools

import pytest

from ttsnap import progress
from ttsnap.progress import track


def test_a_log_gets_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0, 4)
    monkeypatch.setattr("ttsnap.progress.time.monotonic", lambda: float(next(clock)))
    assert list(track(range(8), "denoise")) == list(range(8))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "denoise 3/8 37 % 0.25/s, 0:20 left",
        "denoise 6/8 75 % 0.25/s, 0:08 left",
        "denoise 8/8 done in 0:36, 0.22/s",
    ]


def test_a_total_may_be_unknown_given_or_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()
    monkeypatch.setattr("ttsnap.progress.time.monotonic", lambda: float(next(clock)))
    assert list(track((i for i in range(3)), "read")) == [0, 1, 2]
    assert list(track((i for i in range(3)), "write", total=3)) == [0, 1, 2]
    assert list(track([], "rest")) == []
    assert capsys.readouterr().err.splitlines() == [
        "read 3 done in 0:04, 0.75/s",
        "write 3/3 done in 0:04, 0.75/s",
        "rest 0 done in 0:01",
    ]


def test_long_times_have_hours() -> None:
    assert [progress.clock(s) for s in (5, 601, 3725)] == ["0:05", "10:01", "1:02:05"]


def test_a_terminal_gets_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert list(track(range(5), "denoise [all]")) == list(range(5))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "denoise [all]" in captured.err
    assert "5/5" in captured.err
