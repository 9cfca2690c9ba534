from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ttsnap.narf.evaluate import KEEPS, evaluate, prompt_metrics
from ttsnap.store.tensors import RewardTensor


def tensor(values: np.ndarray) -> RewardTensor:
    prompts, images, steps = values.shape
    seeds = np.arange(prompts * images).reshape(prompts, images)
    names = [f"p{i}" for i in range(prompts)]
    return RewardTensor(values.astype(np.float32), list(range(steps)), names, seeds)


def test_tau_is_scipys() -> None:
    scores = np.random.default_rng(0).normal(size=(4, 9, 3))
    final = np.random.default_rng(1).normal(size=(4, 9))
    found = prompt_metrics(scores, final)["kendall_tau"]
    for p in range(4):
        for s in range(3):
            expected = stats.kendalltau(scores[p, :, s], final[p]).statistic
            assert found[p, s] == pytest.approx(expected)


def test_a_perfect_predictor() -> None:
    final = np.random.default_rng(0).normal(size=(4, 9))
    found = prompt_metrics(final[..., None], final)
    assert (found["kendall_tau"] == 1).all()
    assert (found["t_acc"] == 1).all()
    assert (found["t_gap"] == 0).all()
    assert (found["mse"] == 0).all()


def test_by_hand() -> None:
    # Ranked by score the final rewards are 1, 0, 5, 3. Of four images, α = 0.05 … 0.35 keeps one
    # (7 of the 19), 0.40 … 0.60 two (5), and from 0.65 on the best survives (7).
    final = np.array([[5.0, 3.0, 1.0, 0.0]])
    scores = np.array([[2.0, 1.0, 9.0, 8.0]])
    found = {name: value.item() for name, value in prompt_metrics(scores[..., None], final).items()}
    assert len(KEEPS) == 19
    assert found["t_acc"] == pytest.approx(7 / 19)
    assert found["t_gap"] == pytest.approx((7 * 4 + 5 * 4) / 19)
    assert found["kendall_tau"] == pytest.approx((2 - 4) / 6)
    assert found["mse"] == pytest.approx((9 + 4 + 64 + 64) / 4)


def test_constant_scores_rank_nothing() -> None:
    found = prompt_metrics(np.zeros((1, 4, 1)), np.array([[0.0, 1.0, 2.0, 3.0]]))
    assert found["kendall_tau"].item() == 0


def test_table_of_base_finetuned_and_difference() -> None:
    rng = np.random.default_rng(0)
    final = rng.normal(size=(30, 12, 1))
    base = np.concatenate([final + 2 * rng.normal(size=(30, 12, 2)), final], axis=2)
    finetuned = np.full_like(base, np.nan)
    finetuned[..., 0] = final[..., 0] + 0.2 * rng.normal(size=(30, 12))
    table = evaluate(tensor(base), tensor(finetuned)).set_index(["step", "kind", "metric"])
    metrics = {"kendall_tau", "mse", "t_acc", "t_gap"}
    expected = {(step, "base", metric) for step in range(3) for metric in metrics}
    expected |= {(0, kind, metric) for kind in ("finetuned", "difference") for metric in metrics}
    assert set(table.index) == expected
    assert ((table["low"] <= table["mean"]) & (table["mean"] <= table["high"])).all()
    for metric in metrics:
        means = [table.loc[(0, kind, metric), "mean"] for kind in ("base", "finetuned")]
        difference = table.loc[(0, "difference", metric)]
        assert difference["mean"] == pytest.approx(means[1] - means[0])
        better = (
            difference["low"] > 0 if metric in ("kendall_tau", "t_acc") else difference["high"] < 0
        )
        assert better
    assert table.loc[(2, "base", "kendall_tau")].tolist() == [1, 1, 1]


def test_other_trajectories_are_refused() -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 4))
    other = tensor(values)
    other.seeds[0, 0] = 99
    with pytest.raises(ValueError, match="different trajectories"):
        evaluate(tensor(values), other)
