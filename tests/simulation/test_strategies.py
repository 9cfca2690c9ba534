from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import simpson

from ttsnap.errors import UserError
from ttsnap.schedule import CostModel, Schedule
from ttsnap.simulation.exact import expected_best
from ttsnap.simulation.experiment import TTSNAP, TTSP, Experiment, named
from ttsnap.simulation.omega import BEST_OF_N, gains
from ttsnap.simulation.source import at_all_steps, pair
from ttsnap.simulation.strategies import (
    Curves,
    enough_draws,
    given_plan,
    plan_schedules,
    simulate_part,
    simulate_parts,
)

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


def run(
    base: np.ndarray,
    finetuned: np.ndarray,
    budgets: list[float],
    schedule: Schedule = SCHEDULE,
    costs: CostModel = COSTS,
) -> Curves:
    experiment = Experiment({"a": pair(base, finetuned)}, costs)
    schedules = {(name, b): (name, schedule) for name in (TTSP, TTSNAP) for b in budgets}
    return simulate_part(experiment, schedules, budgets, draws=100, seed=0)


def test_a_better_early_reward_gives_a_better_curve() -> None:
    base, finetuned = pool(noise=3.0), pool(noise=0.3)
    finetuned[:, :, -1] = base[:, :, -1]
    curves = run(base, finetuned, [13.0, 25.0, 50.0])
    assert np.all(curves.per_prompt[TTSNAP, "a"].mean(0) > curves.per_prompt[TTSP, "a"].mean(0))
    table = curves.omega.set_index("strategy")
    for figure, neutral in (
        ("omega", 0.0),
        ("equivalent_n_ratio", 1.0),
        ("compute_for_same_reward", 1.0),
    ):
        assert table.loc[BEST_OF_N, figure] == pytest.approx(neutral)
        assert np.all(table[f"{figure}_low"] <= table[figure] + 1e-12)
        assert np.all(table[figure] <= table[f"{figure}_high"] + 1e-12)
    assert table.loc[TTSNAP, "omega"] > max(0, table.loc[TTSP, "omega"])
    assert table.loc[TTSNAP, "equivalent_n_ratio"] > 1
    assert table.loc[TTSNAP, "compute_for_same_reward"] < 1


def test_table_holds_the_means_and_their_intervals() -> None:
    base = pool(noise=1.0)
    curves = run(base, base, [25.0, 13.0])
    table = curves.table
    assert list(table.strategy.unique()) == [BEST_OF_N, TTSP, TTSNAP]
    best_of_n = table[table.strategy == BEST_OF_N]
    assert best_of_n.n.tolist() == [2, 4]
    assert best_of_n["mean"].tolist() == pytest.approx(
        [expected_best(base[:, :, -1], n).mean() for n in (2, 4)]
    )
    assert np.all((table.low < table["mean"]) & (table["mean"] < table.high))
    assert np.all(table[table.strategy != BEST_OF_N].error < 0.1)
    # The same rewards prune the same subsets.
    np.testing.assert_array_equal(curves.per_prompt[TTSP, "a"], curves.per_prompt[TTSNAP, "a"])


def test_a_step_without_finetuned_rewards_uses_the_base() -> None:
    base, finetuned = pool(noise=1.0), pool(noise=0.5)
    finetuned[:, :, 2:] = np.nan
    mixed = np.concatenate([finetuned[:, :, :2], base[:, :, 2:]], axis=2)
    budgets = [13.0, 25.0]
    np.testing.assert_array_equal(
        run(base, finetuned, budgets).per_prompt[TTSNAP, "a"],
        run(base, mixed, budgets).per_prompt[TTSNAP, "a"],
    )
    assert pair(base, finetuned).finetuned_steps == [0, 1]
    finetuned[0, 0, 1] = np.nan
    with pytest.raises(UserError, match="step 1: 1 of 480 are NaN"):
        pair(base, finetuned)


def test_what_the_pool_cannot_show_is_missing_and_said() -> None:
    base = pool(noise=1.0, images=8)
    curves = run(base, base, [1.0, 13.0, 25.0, 100.0])
    rows = curves.table.set_index(["strategy", "budget"])
    assert np.isnan(rows.loc[(BEST_OF_N, 1.0), "mean"])
    assert rows.loc[(BEST_OF_N, 1.0), "note"] == "does not buy one candidate"
    assert np.isnan(rows.loc[(BEST_OF_N, 100.0), "mean"])
    assert rows.loc[(BEST_OF_N, 100.0), "note"] == "buys 16 candidates, the pool holds 8"
    assert rows.loc[(BEST_OF_N, 25.0), "note"] == ""
    assert curves.omega.first_budget.unique() == [13.0]
    assert curves.omega.last_budget.unique() == [25.0]
    with pytest.raises(UserError, match="two or more"):
        run(base, base, [25.0, 100.0])


def test_omega_by_its_formula() -> None:
    base, finetuned = pool(noise=1.0), pool(noise=0.2)
    budgets = [13.0, 19.0, 25.0, 31.0, 37.0]
    curves = run(base, finetuned, budgets)
    means = {name: values.mean(axis=0) for (name, _), values in curves.per_prompt.items()}
    start = means[BEST_OF_N][0]
    area = {name: simpson(mean - start, x=budgets) for name, mean in means.items()}
    table = curves.omega.set_index("strategy")
    for name in (TTSP, TTSNAP):
        expected = 100 * (area[name] - area[BEST_OF_N]) / area[BEST_OF_N]
        assert table.loc[name, "omega"] == pytest.approx(expected)


def test_equivalents_by_hand() -> None:
    """The strategy has at every budget what best-of-N has at twice that."""
    budgets = [1.0, 2.0, 4.0]
    best_of = {n: np.full(3, np.log2(n)) for n in range(1, 9)}
    curves = {BEST_OF_N: np.tile([0.0, 1.0, 2.0], (3, 1)), "s": np.tile([1.0, 2.0, 3.0], (3, 1))}
    row = gains(curves, best_of, budgets).set_index("strategy").loc["s"]
    assert row.equivalent_n_ratio == pytest.approx(2)
    assert row.equivalent_n_ratio_low == pytest.approx(2)
    # What best-of-N reaches at 1 is below the curve; its reward at 2 and at 4 costs 1 and 2.
    assert row.compute_for_same_reward == pytest.approx(0.5)


def test_a_constant_reward_has_no_omega() -> None:
    flat = np.ones((3, 40, COSTS.steps))
    with pytest.raises(UserError, match="ω is undefined"):
        run(flat, flat, [13.0, 25.0])


def test_a_check_too_late_is_refused() -> None:
    base = pool(noise=1.0)
    with pytest.raises(UserError, match="step 5 is too late"):
        run(base, base, [13.0, 25.0], Schedule.parse("5:0.5"))


def test_steps_that_were_not_scored() -> None:
    base = pool(noise=1.0)
    scored = [0, 2, 5]
    some = at_all_steps(base[:, :, scored], scored, COSTS.steps)
    budgets = [13.0, 25.0]
    np.testing.assert_array_equal(
        run(some, some, budgets).per_prompt[TTSP, "a"],
        run(base, base, budgets).per_prompt[TTSP, "a"],
    )
    some[:, :, 2] = np.nan
    with pytest.raises(UserError, match="no a rewards at step 2"):
        run(some, some, budgets)
    with pytest.raises(UserError, match="rewards at 3 steps, but costs of 6"):
        run(base[:, :, scored], base[:, :, scored], budgets)


def test_published_accounting_buys_more_candidates() -> None:
    base = pool(noise=1.0)
    sizes = [
        run(base, base, [25.0, 50.0], costs=replace(COSTS, accounting=accounting))
        .table.query("strategy == 'ttsp' and budget == 50")
        .n.item()
        for accounting in ("corrected", "ttsnap")
    ]
    assert sizes[1] > sizes[0]


def test_a_schedule_that_is_given_is_the_plan() -> None:
    base = pool(noise=1.0)
    found = given_plan(Experiment({"a": pair(base, base)}, COSTS), SCHEDULE, [1.0, 25.0], 0)
    assert [one["budget"] for one in found["plans"]] == [25.0, 25.0]
    assert all(Schedule.from_json(one["checks"]) == SCHEDULE for one in found["plans"])


def test_best_of_n_is_as_good_as_itself_where_budgets_buy_the_same() -> None:
    base = pool(noise=1.0)
    found = run(base, base, [7.0, 13.0, 14.0, 25.0, 50.0]).omega.set_index("strategy")
    assert found.loc[BEST_OF_N, "equivalent_n_ratio"] == 1
    assert found.loc[BEST_OF_N, "compute_for_same_reward"] == 1


def test_no_prompts_are_refused() -> None:
    base = pool(noise=1.0, prompts=1)
    with pytest.raises(UserError, match="no prompts are left"):
        Experiment({"a": pair(base, base)}, COSTS).of(slice(1, None, 2))


def test_draws_are_enough_for_an_error_well_below_that_over_prompts() -> None:
    scores = pair(pool(noise=2.0), pool(noise=2.0))
    experiment = Experiment({"a": scores}, COSTS)
    schedules = {(name, b): (name, SCHEDULE) for name in (TTSP, TTSNAP) for b in (20.0, 40.0)}

    def simulated(draws: int) -> pd.DataFrame:
        return simulate_part(experiment, schedules, [20.0, 40.0], draws, seed=0).table

    def worst(table: pd.DataFrame) -> float:
        return float((2 * table.error / (table.high - table.low)).max())

    few = simulated(64)
    assert worst(few) > 0.1
    many = enough_draws(few, 64)
    assert worst(simulated(many)) < 0.1
    assert enough_draws(simulated(many), many) == many


def previewed(decodes: tuple[float, float], previews: tuple[float, float]) -> Experiment:
    """Untouched and finetuned rewards with so much noise, seen in two ways; decodes are dear."""
    both = []
    for noise, finetuned in (decodes, previews):
        base, better = pool(noise), pool(finetuned)
        better[:, :, -1] = base[:, :, -1]
        both.append({"a": pair(base, better)})
    costs = replace(COSTS, decode=1.0, preview=0.01)
    return Experiment(both[0], costs, previews=both[1])


def test_looks_are_strategies_with_prices_of_their_own() -> None:
    experiment = previewed((1.0, 0.5), (3.0, 1.0))
    assert experiment.pruning == ("ttsp", "ttsnap", "ttsp@preview", "ttsnap@preview")
    assert experiment.costs_of("ttsp").check == pytest.approx(1.1)
    assert experiment.costs_of("ttsnap@preview").check == pytest.approx(0.11)
    assert experiment.of(slice(0, 3)).scores("ttsp@preview")[0].shape[0] == 3
    assert experiment.sha256() != replace(experiment, previews=experiment.rewards).sha256()


def test_a_plan_for_several_looks_names_the_best_and_is_simulated() -> None:
    experiment = previewed((1.0, 0.5), (3.0, 0.4))
    budgets = [16.0, 32.0, 48.0]
    planned = plan_schedules(experiment, budgets, 0)
    expected = {
        (one["strategy"], one["budget"]): one["expected"]["mean"] for one in planned["plans"]
    }
    for budget in budgets:
        some = [expected[strategy, budget] for strategy in experiment.pruning]
        assert expected["best", budget] == max(some)
        assert expected["ttsnap", budget] >= expected["ttsp", budget]
        assert expected["ttsnap@preview", budget] > expected["ttsp@preview", budget]
    found = simulate_parts(experiment, planned, budgets, 64, 0)
    rows = found.omega.set_index(["strategy", "look"])
    assert [*rows.index] == [
        ("best-of-n", ""),
        *((strategy, look) for look in ("decode", "preview") for strategy in ("ttsp", "ttsnap")),
        ("best", ""),
    ]
    gain = rows.omega["ttsnap", "preview"] - rows.omega["ttsp", "preview"]
    assert rows.omega_gain["ttsnap", "preview"] == pytest.approx(gain)
    assert rows.omega_gain_low["ttsnap", "preview"] > 0
    assert np.isnan(rows.omega_gain["ttsp", "decode"])
    best = found.table[found.table.strategy == "best"]
    assert set(best.run_as) == {"ttsnap@preview"}
    assert [*named(found.omega).strategy.unique()] == ["best-of-n", *experiment.strategies]


def test_where_finetuning_does_harm_the_untouched_reward_prunes() -> None:
    base, worse = pool(noise=0.3), pool(noise=9.0)
    worse[:, :, -1] = base[:, :, -1]
    experiment = Experiment({"a": pair(base, worse)}, COSTS)
    budgets = [16.0, 32.0]
    planned = plan_schedules(experiment, budgets, 0)
    assert {one["run_as"] for one in planned["plans"]} == {TTSP}
    found = simulate_parts(experiment, planned, budgets, 64, 0)
    np.testing.assert_array_equal(found.per_prompt[TTSNAP, "a"], found.per_prompt[TTSP, "a"])
    assert found.omega.set_index("strategy").omega_gain[TTSNAP] == 0
