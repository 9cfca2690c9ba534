"""A run of the size of the published data set can be planned."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.workflow.conftest import ROOT, job_counts
from ttsnap.config import load_config
from ttsnap.run.workload import workload


def test_the_published_size_is_planned_in_a_minute_and_two_gigabytes(tmp_path: Path) -> None:
    text = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
    settings = re.search(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert settings
    (tmp_path / "published.yaml").write_text(settings[1], encoding="utf-8")
    for name in ("config", "ttsnap"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--dry-run"]
    command += ["--directory", tmp_path, "--configfile", tmp_path / "published.yaml"]
    started = time.perf_counter()
    with subprocess.Popen(
        [*command, "--cores", "1", "--quiet", "rules"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, output
    assert time.perf_counter() - started < 60
    assert used.ru_maxrss < 2 * 2**20  # KiB
    planned = sum(job_counts(output).values())
    stages = workload(load_config(tmp_path / "published.yaml"))
    assert planned == sum(len(stage.jobs) for stage in stages)
    assert f"| {planned:,} | 65,921,407 |" in text
