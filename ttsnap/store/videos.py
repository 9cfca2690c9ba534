"""Videos as MP4, by PyAV."""

from __future__ import annotations

from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ttsnap.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QUALITY = "18"  # of x264: 0 is lossless, 51 the worst


def check_writer() -> None:
    """See that :func:`write_mp4` can work.

    Raises:
        UserError: PyAV is not installed.
    """
    try:
        import_module("av")
    except ImportError:
        raise UserError("videos are saved by PyAV: pip install 'ttsnap[video]'") from None


def write_mp4(path: Path, video: NDArray[np.uint8], rate: float) -> None:
    """Write frames (F, H, W, 3) as H.264, which browsers play.

    Args:
        path: ends in .mp4.
        video: of even height and width.
        rate: frames per second.

    Raises:
        UserError: see :func:`check_writer`.
    """
    check_writer()
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(rate), options={"crf": QUALITY})
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in video:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
