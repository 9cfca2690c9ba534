from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import simpson

from ttsnap.errors import UserError
from ttsnap.schedule import CostModel, Schedule
from ttsnap.simulation import Curves, at_all_steps, expected_best, omega_table, simulate
from ttsnap.simulation.strategies import BEST_OF_N, TTSNAP, TTSP

COSTS = CostModel(denoise=1.0, decode=0.1, reward=0.1, steps=6)
SCHEDULE = Schedule.parse("0:0.5,2:0.5")


def pool(noise: float, prompts: int = 12, images: int = 40) -> np.ndarray:
    """Rewards whose early steps are the final ones plus noise that fades out."""
    rng = np.random.default_rng(0)
    final = rng.normal(size=(prompts, images, 1))
    fade = np.linspace(1, 0, COSTS.steps)
    return (final + noise * fade * rng.normal(size=(prompts, images, COSTS.steps))).astype(
        np.float32
    )


def run(base: np.ndarray, finetuned: np.ndarray, budgets: list[float]) -> Curves:
    return simulate(base, finetuned, COSTS, SCHEDULE, budgets, draws=100, seed=0)


def test_a_better_early_reward_gives_a_better_curve() -> None:
    base, finetuned = pool(noise=3.0), pool(noise=0.3)
    finetuned[:, :, -1] = base[:, :, -1]
    curves = run(base, finetuned, [13.0, 25.0, 50.0])
    assert np.all(curves.per_prompt[TTSNAP].mean(0) > curves.per_prompt[TTSP].mean(0))
    table = omega_table(curves, draws=200).set_index("strategy")
    assert table.loc[BEST_OF_N, "omega"] == 0
    assert table.loc[TTSNAP, "omega"] > max(0, table.loc[TTSP, "omega"])
    assert np.all(table.omega_low <= table.omega)
    assert np.all(table.omega <= table.omega_high)


def test_table_holds_the_means_and_their_intervals() -> None:
    base = pool(noise=1.0)
    curves = run(base, base, [13.0, 25.0])
    table = curves.table
    assert list(table.strategy.unique()) == [BEST_OF_N, TTSP, TTSNAP]
    best_of_n = table[table.strategy == BEST_OF_N]
    assert best_of_n.n.tolist() == [2, 4]
    assert best_of_n["mean"].tolist() == pytest.approx(
        [expected_best(base[:, :, -1], n).mean() for n in (2, 4)]
    )
    assert np.all((table.low < table["mean"]) & (table["mean"] < table.high))
    # The same rewards prune the same subsets.
    np.testing.assert_array_equal(curves.per_prompt[TTSP], curves.per_prompt[TTSNAP])
    pd.testing.assert_frame_equal(run(base, base, [25.0, 13.0]).table, table)


def test_a_step_without_finetuned_rewards_uses_the_base() -> None:
    base, finetuned = pool(noise=1.0), pool(noise=0.5)
    finetuned[:, :, 2:] = np.nan
    mixed = np.concatenate([finetuned[:, :, :2], base[:, :, 2:]], axis=2)
    np.testing.assert_array_equal(
        run(base, finetuned, [25.0]).per_prompt[TTSNAP], run(base, mixed, [25.0]).per_prompt[TTSNAP]
    )
    finetuned[0, 0, 1] = np.nan
    with pytest.raises(UserError, match="step 1: 1 of 480 are NaN"):
        run(base, finetuned, [25.0])


def test_what_the_pool_cannot_show_is_missing_and_said() -> None:
    base = pool(noise=1.0, images=8)
    curves = run(base, base, [1.0, 13.0, 25.0, 100.0])
    rows = curves.table.set_index(["strategy", "budget"])
    assert np.isnan(rows.loc[(BEST_OF_N, 1.0), "mean"])
    assert rows.loc[(BEST_OF_N, 1.0), "note"] == "does not buy one candidate"
    assert np.isnan(rows.loc[(BEST_OF_N, 100.0), "mean"])
    assert rows.loc[(BEST_OF_N, 100.0), "note"] == "buys 16 candidates, the pool holds 8"
    assert rows.loc[(BEST_OF_N, 25.0), "note"] == ""
    counted = omega_table(curves, draws=10)
    assert counted.first_budget.unique() == [13.0]
    assert counted.last_budget.unique() == [25.0]
    with pytest.raises(UserError, match="two or more"):
        omega_table(run(base, base, [25.0, 100.0]))


def test_omega_by_its_formula() -> None:
    base, finetuned = pool(noise=1.0), pool(noise=0.2)
    budgets = [13.0, 19.0, 25.0, 31.0, 37.0]
    curves = run(base, finetuned, budgets)
    means = {name: values.mean(axis=0) for name, values in curves.per_prompt.items()}
    start = means[BEST_OF_N][0]
    area = {name: simpson(mean - start, x=budgets) for name, mean in means.items()}
    table = omega_table(curves, draws=10).set_index("strategy")
    for name in (TTSP, TTSNAP):
        expected = 100 * (area[name] - area[BEST_OF_N]) / area[BEST_OF_N]
        assert table.loc[name, "omega"] == pytest.approx(expected)


def test_a_constant_reward_has_no_omega() -> None:
    flat = np.ones((3, 40, COSTS.steps))
    with pytest.raises(UserError, match="ω is undefined"):
        omega_table(run(flat, flat, [13.0, 25.0]))


def test_a_check_too_late_is_refused() -> None:
    base = pool(noise=1.0)
    with pytest.raises(UserError, match="step 5 is too late"):
        simulate(base, base, COSTS, Schedule.parse("5:0.5"), [25.0], 10, 0)


def test_steps_that_were_not_scored() -> None:
    base = pool(noise=1.0)
    scored = [0, 2, 5]
    some = at_all_steps(base[:, :, scored], scored, COSTS.steps)
    np.testing.assert_array_equal(
        run(some, some, [25.0]).per_prompt[TTSP], run(base, base, [25.0]).per_prompt[TTSP]
    )
    some[:, :, 2] = np.nan
    with pytest.raises(UserError, match="no rewards at step 2"):
        run(some, some, [25.0])
    with pytest.raises(ValueError, match="rewards at 3 steps, but costs of 6"):
        run(base[:, :, scored], base[:, :, scored], [25.0])


def test_published_accounting_buys_more_candidates() -> None:
    base = pool(noise=1.0)
    published = replace(COSTS, accounting="ttsnap")
    sizes = [
        simulate(base, base, costs, SCHEDULE, [50.0], 10, 0).table.query("strategy == 'ttsp'").n
        for costs in (COSTS, published)
    ]
    assert sizes[1].item() > sizes[0].item()
