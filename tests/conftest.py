"""Settings shared by all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from tests.object_store import s3

# Before any test imports torch: one thread a process, and never a look at a model hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

# The same examples on every machine, however slow it is.
settings.register_profile("ttsnap", deadline=None, derandomize=True)
settings.load_profile("ttsnap")


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """A bucket that speaks S3, the same all along, for clients outlive the test that made them."""
    with s3("bucket") as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield "s3://bucket"


@pytest.fixture
def ttsnap(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the command in this process; gives its exit status."""
    from ttsnap import cli

    def command(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["ttsnap", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as status:
            return int(status.code or 0)
        return 0

    return command


@pytest.fixture
def inject(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Tell, below the results of the tests, of a fault that was injected and what became of it."""
    return lambda line: record_property("fault", line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what :func:`inject` was told."""
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
    ]
    faults = [text for report in reports for key, text in report.user_properties if key == "fault"]
    if faults:
        terminalreporter.section("faults injected")
        for text in faults:
            terminalreporter.line(text)
