from __future__ import annotations

from tests.pictures import PROMPTS
from ttsnap.drawing.captions import caption, drawable


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
    assert drawable("é漢🦊\u200d$\n") == "é▯▯$ "
