"""The stage that searches a block of prompts, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.tiny import tiny_stable_diffusion
from tests.tiny_clip import tiny_clip
from ttsnap.config import Model, RewardSettings, Sampling, Scheduler, SplitSettings
from ttsnap.diffusion.linear_preview import LinearPreview
from ttsnap.searching import METHODS
from ttsnap.stages.search import VERSION, VERSIONS, Settings, version_of

ROOT = Path(__file__).parents[2]
PROMPTS = ["a red circle", "a forbidden 🦊 / circle", "blue"]
JUDGE = """
import numpy as np

class Judge:
    name, scale = "judge", "mean brightness where it agrees to look"

    @classmethod
    def load(cls, settings, *, name, device, checkpoint):
        return cls()

    def score(self, images, prompts):
        refused = ["forbidden" in text for text in prompts]
        return np.where(refused, np.nan, images.mean(axis=(1, 2, 3)))

    def tflops(self, height, width):
        return 0.0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stage")
    tiny_stable_diffusion(folder / "generator")
    tiny_clip(folder / "clip")
    (folder / "refusing.py").write_text(JUDGE)
    (folder / "prompts.json").write_text(json.dumps(PROMPTS), encoding="utf-8")
    (folder / "model.json").write_text(json.dumps({"steps": 4}))
    prices = {"unit": "TFLOPs", "denoise": 1.0, "decode": 0.5, "score": 0.25}
    (folder / "cost.json").write_text(json.dumps(prices))
    return folder


def settings(**changes: object) -> Settings:
    given = {
        "model": Model(path="generator"),
        "sampling": Sampling(steps=4, guidance_scale=1.0),
        "split": SplitSettings(file="prompts.json", start=0, stop=3, images=2, prompts_per_job=3),
        "seed": 0,
        "reward": RewardSettings(path="clip"),
        "reward_name": "clip",
        "budgets": [10.0, 20.0],
        "options": {},
        "prompts_per_job": 3,
        "judge_reward": RewardSettings(kind="brightness"),
        "judge_reward_name": "bright",
        "judge": None,
        "pictured": 0,
        "prompts": "hash",
        "version": VERSION,
    }
    return Settings.model_validate(given | changes)


@pytest.fixture
def start(folder: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start the stage; gives its process."""

    def command(
        out: Path, method: str = "best-of-n", *inputs: str, **changes: object
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "ttsnap.stages.search"),
                *("--settings", settings(**changes).model_dump_json(), "--method", method),
                *("--block", "0", "--model", "model.json", "--reward-cost", "cost.json"),
                *inputs,
                *("--out", str(out)),
            ],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "TTSNAP_RUNTIME": '{"device": "cpu", "batch_size": 2}',
            },
            stderr=subprocess.PIPE,
            text=True,
        )

    return command


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def traces(out: Path) -> dict[str, int]:
    found = sorted(out.parent.glob("*/*/trace.jsonl"))
    return {path.relative_to(out.parent).as_posix(): path.stat().st_mtime_ns for path in found}


def test_only_methods_whose_results_changed_are_searched_again() -> None:
    changed = {name for name in METHODS if version_of(name) != VERSION}
    assert changed == set(VERSIONS) == {"mcts", "smc"}


def test_checks_see_previews_where_the_method_or_the_plan_says_so(
    folder: Path, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    prices = json.loads((folder / "cost.json").read_text())
    dear = {**prices, "decode": 5.0, "looks": ["decode", "preview"], "preview": 0.01}
    (folder / "dear.json").write_text(json.dumps(dear))
    about = {"reward": "clip", "budget": 20.0, "n": 4, "checks": [{"step": 0, "keep": 0.5}]}
    plans = [
        {**about, "strategy": strategy, "run_as": run_as}
        for strategy, run_as in (
            ("ttsp", "ttsp"),
            ("ttsp@preview", "ttsp@preview"),
            ("best", "ttsp@preview"),
        )
    ]
    costs = {"denoise": 1.0, "decode": 5.0, "reward": 0.25, "preview": 0.01}
    plan = {"kind": "plan", "steps": 4, "unit": "TFLOPs", "costs": costs, "plans": plans}
    (folder / "plan.json").write_text(json.dumps({**plan, "robust": []}))
    LinearPreview(4, 4).save(folder / "preview.safetensors")
    (folder / "preview.json").write_text("{}")
    common = ("--reward-cost", "dear.json", "--plan", "plan.json", "--preview", "preview.json")
    spent = {}
    for method in ("ttsp", "ttsp@preview", "ttsnap"):
        out = tmp_path / method / "block.parquet"
        code, said = finish(start(out, method, *common, budgets=[30.0]))
        assert code == 0, said
        table = pd.read_parquet(out)
        assert set(table.method) == {method}
        spent[method] = table[["n", "spent"]].mean().tolist()
    # Of n candidates a half goes on to the end: 1 + 5.25 at a check, 3 + 5.25 then.
    assert spent["ttsp"] == [2, 2 * 6.25 + 8.25]
    assert spent["ttsp@preview"] == [4, pytest.approx(4 * 1.26 + 2 * 8.25)]
    assert spent["ttsnap"] == spent["ttsp@preview"]


def test_a_killed_block_goes_on_where_it_was(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole/block.parquet", tmp_path / "killed/block.parquet"
    assert finish(start(whole))[0] == 0

    rows = out.with_suffix(".rows")
    process = start(out)
    while len([*rows.glob("*.json")]) < 2:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {path.name for path in rows.glob("*.json")}
    assert 2 <= len(kept) < 6
    assert not out.exists()
    before = traces(out)

    status, said = finish(start(out))
    assert status == 0, said
    after = traces(out)
    unchanged = [path for path in after if before.get(path) == after[path]]
    assert len(unchanged) == len(kept)
    assert f"searches {6 - len(kept)}/{6 - len(kept)} done" in said
    assert not rows.exists()
    tables = [pd.read_parquet(path).drop(columns="seconds") for path in (whole, out)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert len(tables[0]) == 6
    assert set(tables[0]) >= {"reward", "held_out", "oracle", "diversity", "spent", "nfe", "n"}


def test_rows_of_other_settings_do_not_count(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    out = tmp_path / "block.parquet"
    process = start(out)
    while not [*out.with_suffix(".rows").glob("*.json")]:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    status, said = finish(start(out, seed=1))
    assert status == 0, said
    assert "searches 6/6 done" in said


def test_a_prompt_that_the_judge_refuses_is_gone_past(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    out = tmp_path / "block.parquet"
    judged = {"reward": RewardSettings(kind="refusing:Judge"), "reward_name": "judge"}
    status, said = finish(start(out, **judged))
    assert status == 1
    assert said.count("final images could be scored by judge") == 2
    assert said.splitlines()[-1].startswith("error: 2 of 6 searches could not be scored")
    assert not out.exists()
    done = traces(out)
    assert len(done) == 4
    status, said = finish(start(out, **judged))
    assert status == 0, said
    assert traces(out) == done
    table = pd.read_parquet(out)
    assert len(table) == 4
    assert table.prompt_id.nunique() == 2


def test_a_stochastic_scheduler_of_the_config_is_kept(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    scheduler = Scheduler(name="EulerAncestralDiscreteScheduler")
    sampling = Sampling(steps=4, guidance_scale=1.0, scheduler=scheduler)
    found = {}
    for name, changes in {"own": {"sampling": sampling}, "given": {}}.items():
        out = tmp_path / name / "block.parquet"
        status, said = finish(start(out, "beam", **changes))
        assert status == 0, said
        found[name] = pd.read_parquet(out)
    assert (found["own"].reward != found["given"].reward).all()
