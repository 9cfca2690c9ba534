from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from ttsnap.store.videos import write_mp4


def gray(values: list[list[int]]) -> np.ndarray:
    """Videos (B, F, 16, 16, 3) whose frames have one value each."""
    frames = np.array(values, np.uint8)[..., None, None, None]
    return np.broadcast_to(frames, (*frames.shape[:2], 16, 16, 3))


def read_mp4(path: Path) -> tuple[np.ndarray, float]:
    with av.open(str(path)) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        return np.stack(frames), float(file.streams.video[0].average_rate)


def test_an_mp4_shows_the_frames(tmp_path: Path):
    video = gray([[10, 60, 120, 240, 30]])[0]
    write_mp4(tmp_path / "a.mp4", video, 16.0)
    frames, rate = read_mp4(tmp_path / "a.mp4")
    assert rate == 16
    assert np.abs(frames.astype(int) - video).max() <= 4
