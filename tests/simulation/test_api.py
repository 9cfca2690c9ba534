"""Simulation and planning from Python."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ttsnap.errors import UserError
from ttsnap.schedule import CostModel, planned_schedule
from ttsnap.simulation import plan, simulate

DOCS = Path(__file__).parents[2] / "docs/reproduction.md"
COSTS = CostModel(denoise=1.0, decode=0.0, reward=0.2, steps=7)
BUDGETS = [15, 30, 60]


def rewards(noise: float, steps: int = 7, seed: int = 0) -> np.ndarray:
    """Rewards of 16 prompts x 40 images whose noise fades out over the steps."""
    rng = np.random.default_rng(seed)
    final = rng.normal(size=(16, 40, 1))
    return final + noise * np.linspace(1, 0, steps) * rng.normal(size=(16, 40, steps))


def test_the_example_of_the_docs_runs_without_torch(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    np.savez(tmp_path / "flux_reward_tensors.npz", pic_base=rewards(1.5, steps=20))
    code = f"{example}\nimport sys\nassert not {{'torch', 'diffusers'}} & {{*sys.modules}}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "equivalent_n_ratio" in done.stdout


def test_a_plan_beats_best_of_n_on_other_prompts_and_is_what_a_search_reads() -> None:
    base = rewards(1.0)
    chosen = plan(base[::2], BUDGETS, costs=COSTS)
    assert {one["strategy"] for one in chosen["plans"]} == {"ttsp"}
    found = simulate(base[1::2], BUDGETS, costs=COSTS, schedule=chosen)
    assert found.omega.set_index("strategy").omega["ttsp"] > 0
    strategy, schedule = planned_schedule(chosen, "ttsp", 30, reward="reward", costs=COSTS)
    assert strategy == "ttsp"
    assert schedule.checks
    rows = found.table[(found.table.strategy == "ttsp") & (found.table.budget == 30)]
    assert rows.schedule.item() == str(schedule)


def test_files_and_arrays_give_the_same(tmp_path: Path) -> None:
    base, finetuned = rewards(2.0).astype(np.float32), rewards(0.5).astype(np.float32)
    np.savez(tmp_path / "both.npz", a_base=base, a_naft=finetuned, b_base=finetuned, b_naft=base)
    given = {"a": (base, finetuned), "b": (finetuned, base)}
    options = {"costs": COSTS, "schedule": "2:0.5", "draws": 64, "joint": True}
    one, other = (simulate(what, BUDGETS, **options) for what in (tmp_path / "both.npz", given))
    assert one.table.equals(other.table)
    assert set(one.table.strategy) == {"best-of-n", "ttsp", "ttsnap"}


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (
            rewards(1.0)[0],
            r"reward: base rewards are \(40, 7\), expected \(prompts, images, steps\)",
        ),
        ({"a": rewards(1.0).astype(int)}, "a: base rewards are int64, expected floating point"),
        ({"a": (rewards(1.0), rewards(1.0)[:3])}, r"a: finetuned rewards are \(3, 40, 7\)"),
        (rewards(1.0, steps=6), "reward: rewards at 6 steps, but costs of 7"),
        ("none.npz", "none.npz: no such file"),
    ],
)
def test_what_is_no_rewards_is_refused(given: object, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        plan(given, BUDGETS, costs=COSTS)
