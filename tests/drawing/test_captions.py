from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copy

import matplotlib
import pytest
from matplotlib.font_manager import FontEntry, findfont, fontManager, ttfFontProperty
from matplotlib.ft2font import FT2Font

from tests.pictures import PROMPTS
from ttsnap.drawing import captions
from ttsnap.drawing.captions import caption, drawable, families
from ttsnap.drawing.style import FAMILY


def test_captions_are_short_and_drawable() -> None:
    assert caption("a  b\nc", 3) == "a b c"
    assert caption("", 3) == ""
    long = caption(PROMPTS[2], 3).splitlines()
    assert len(long) == 2
    assert long[1].endswith("…")
    assert "very" in long[1]
    narrow, wide = ([len(line) for line in caption(c * 900, 3).splitlines()] for c in "iW")
    assert narrow[0] > 2 * wide[0]
    assert len(narrow) == len(wide) == 2


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Leaves of this machine's fonts those of matplotlib, and some more."""
    own = Path(matplotlib.get_data_path())

    def only(*more: FontEntry) -> None:
        ours = [font for font in fontManager.ttflist if own in Path(font.fname).parents]
        monkeypatch.setattr(fontManager, "ttflist", [*ours, *more])
        clear()

    yield only
    monkeypatch.undo()
    clear()


def clear() -> None:
    for function in (captions._family, captions._others, captions._glyphs, captions._advance):
        function.cache_clear()


def test_what_no_font_can_draw_is_counted(only: Callable[..., None]) -> None:
    only()
    assert drawable("é\u200d$\n") == "é$ "
    assert drawable("é漢🦊 字$\n") == "[3 characters no font here has] é… $ "
    assert drawable("漢") == "[1 character no font here has] … "
    assert families("é") == [FAMILY]


def test_another_font_of_the_machine_steps_in(only: Callable[..., None], tmp_path: Path) -> None:
    character = "\N{SMILE}"  # of STIX, not of the usual font
    only()
    assert drawable(character) != character
    only(ttfFontProperty(FT2Font(copy(findfont("STIXGeneral"), tmp_path))))
    assert drawable(character) == caption(character, 3) == character
    assert families(f"a{character}") == [FAMILY, "STIXGeneral"]
