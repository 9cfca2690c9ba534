from __future__ import annotations

from ttsnap.drawing.words import scored, signed


def test_signed_numbers() -> None:
    assert [signed(0.1), signed(-0.0766), signed(22.0, 3)] == ["+0.10", "−0.077", "+22.0"]
    assert [scored(value, -20.131) for value in (-20.131, 0.5)] == ["−20.13", "0.50"]
    assert [scored(value, 0.2776) for value in (0.2776, 0.1)] == ["0.2776", "0.1000"]
    assert scored(0.0, 0.0) == "0.000"
