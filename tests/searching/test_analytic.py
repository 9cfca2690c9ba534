"""Sequential Monte Carlo in a world of one number, where what it should converge to is known."""

from __future__ import annotations

import numpy as np
import pytest

from tests.searching.analytic import WORLD, expected, finals, search, world
from ttsnap.searching.methods.das import Das
from ttsnap.searching.methods.funnel import Funnel
from ttsnap.searching.methods.particles import Particles
from ttsnap.searching.methods.smc import Smc
from ttsnap.searching.searcher import Searcher

STEPS = 12
SLOPE = 1.0
METHODS = {
    "smc": Smc(per_unit=SLOPE),
    "das": Das(per_unit=SLOPE),
    "funnel": Funnel(per_unit=SLOPE),
}


@pytest.fixture(scope="module")
def searcher() -> Searcher:
    return world(STEPS)


def test_the_sampler_draws_the_mixture_as_steps_grow() -> None:
    """Its tilted mean comes to that of the mixture, which has a closed form."""
    tilted = WORLD.tilted(SLOPE)
    assert tilted.weights.sum() == pytest.approx(1)
    gaps = [
        abs(expected(world(steps), SLOPE, lambda x: x) - tilted.mean) for steps in (12, 36, 108)
    ]
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]
    assert gaps[2] < 0.1


def test_the_grid_agrees_with_draws(searcher: Searcher) -> None:
    numbers, _ = finals(search(searcher, "smc", Smc(strength=0.0), 400, seed=0))
    assert numbers.mean() == pytest.approx(expected(searcher, 0.0, lambda x: x), abs=0.25)
    right = expected(searcher, 0.0, lambda x: x > 1.5)
    assert (numbers > 1.5).mean() == pytest.approx(right, abs=0.05)


@pytest.mark.parametrize(("name", "options"), METHODS.items())
def test_particles_converge_to_the_tilted_distribution(
    searcher: Searcher, name: str, options: Particles
) -> None:
    """Mean and share above 1.5, by the weights of the finals, come closer as particles grow."""
    mean = expected(searcher, SLOPE, lambda x: x)
    right = expected(searcher, SLOPE, lambda x: x > 1.5)
    errors = []
    for runs, seeds in ((8, 12), (200, 3)):
        found = [finals(search(searcher, name, options, runs, seed)) for seed in range(seeds)]
        means = [abs(float((weights * numbers).sum()) - mean) for numbers, weights in found]
        shares = [abs(float(weights[numbers > 1.5].sum()) - right) for numbers, weights in found]
        errors.append([np.mean(means), np.mean(shares)])
    few, many = np.array(errors)
    assert (many < few / 2).all()
    assert many[0] < 0.3
    assert many[1] < 0.1
