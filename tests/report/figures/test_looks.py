from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.pictures import has, read
from tests.report.figures.test_reward import evaluation
from ttsnap.drawing.style import colour
from ttsnap.narf.evaluate import evaluate_drafts
from ttsnap.report import figures
from ttsnap.schedule import CostModel

COSTS = CostModel(denoise=2.0, decode=0.6, reward=0.2, steps=12, preview=0.1)


def test_a_look_is_drawn_at_what_a_candidate_pays_for_it(tmp_path: Path) -> None:
    final = np.arange(12.0).reshape(2, 6)
    drafts = evaluate_drafts(final[:, [1, 0, 2, 3, 4, 5]], final)
    both = {
        "": pd.concat([evaluation(range(1, 7)), drafts]),
        "@preview": evaluation(range(1, 4)),
    }
    table = figures.priced_looks(both, replace(COSTS, draft=2.5))
    prices = table.set_index(["series", "step"]).price
    assert prices["ttsp", 3] == pytest.approx(4 + 0.4)
    assert prices["ttsnap@preview", 3] == pytest.approx(4 + 0.15)
    assert prices["draft", -1] == pytest.approx(2.5 + 0.4)
    assert table[table.series == "draft"]["mean"].item() == pytest.approx(1 - 2 / 15)
    # Of one look, previews are what all checks see and pay for.
    alone = figures.priced_looks({"": evaluation(range(1, 4))}, COSTS).set_index("series")
    assert alone.price["ttsp"].min() == pytest.approx(1 + 0.15)
    assert table.step.max() == 10  # the last one is the final image itself
    figures.looks(table, tmp_path / "a.png", whole=12.4)
    pixels = read(tmp_path / "a.png")
    for series in ("ttsp", "ttsnap", "ttsp@preview", "ttsnap@preview", "draft"):
        assert has(pixels, colour(series))
