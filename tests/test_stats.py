from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ttsnap.stats import kendall_tau_rows, mean_interval


@pytest.mark.parametrize("levels", [3, 1000])
def test_tau_is_scipys(levels: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(levels, size=(2, 4, 5, 17)).astype(np.float32)
    found = kendall_tau_rows(a, b)
    expected = [
        stats.kendalltau(x, y).statistic
        for x, y in zip(a.reshape(-1, 17), b.reshape(-1, 17), strict=True)
    ]
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-12)


def test_tau_broadcasts_over_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(6, 3, 8)), rng.normal(size=(6, 1, 8))
    whole = kendall_tau_rows(a, b)
    monkeypatch.setattr("ttsnap.stats._PAIRS_AT_ONCE", 60)
    np.testing.assert_array_equal(kendall_tau_rows(a, b), whole)
    assert whole.shape == (6, 3)


def test_tau_of_ties_alone_is_nan() -> None:
    assert np.isnan(kendall_tau_rows([[1.0, 1.0, 1.0]], [[1.0, 2.0, 3.0]])).all()


def test_interval_is_that_of_the_normal_for_many_prompts() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=2000)
    mean, low, high = mean_interval(values)
    assert mean == values.mean()
    error = values.std() / np.sqrt(len(values))
    np.testing.assert_allclose([low, high], [mean - 1.96 * error, mean + 1.96 * error], atol=0.004)
    narrow = mean_interval(values, level=0.5)
    assert low < narrow[1] < mean < narrow[2] < high


def test_interval_of_columns_is_that_of_each() -> None:
    values = np.random.default_rng(0).normal(size=(30, 3))
    together = np.stack(mean_interval(values, draws=1234, seed=5))
    alone = np.stack([np.stack(mean_interval(v, draws=1234, seed=5)) for v in values.T], axis=1)
    np.testing.assert_allclose(together, alone, rtol=1e-12)
    other = np.stack(mean_interval(values, draws=1234, seed=6))
    assert not np.allclose(together[1:], other[1:], rtol=1e-6)
