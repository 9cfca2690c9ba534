"""Whether what networks give is finite, asked without waiting for a GPU at every step."""

from __future__ import annotations

from collections import deque

import torch

from ttsnap.errors import UserError


class Finite:
    """Notes on outputs that stay where they are computed until they are read, all at once.

    One thread may note while another reads.
    """

    def __init__(self) -> None:
        self._notes: deque[tuple[torch.Tensor, str]] = deque()

    def note(
        self, output: torch.Tensor, whose: str, dtype: torch.dtype, where: str = "", hint: str = ""
    ) -> None:
        """Remember whether an output is finite.

        Args:
            output: on any device.
            whose: decoder or denoiser.
            dtype: precision of latents.
            where: at which step, if it is the output of one.
            hint: what to try beside another precision.
        """
        complaint = (
            f"the {whose}'s output is not finite{where} ({dtype}): try model.dtype float32 or "
            f"bfloat16{hint}"
        )
        self._notes.append((torch.isfinite(output).all(), complaint))

    def forget(self) -> None:
        """Forget all notes, such as those of work that somebody ended before it was read."""
        self._notes.clear()

    def read(self) -> None:
        """Forget all notes.

        Raises:
            UserError: the complaint of the first output that was not finite.
        """
        notes = [self._notes.popleft() for _ in range(len(self._notes))]
        flags = torch.stack([flag for flag, _ in notes]).tolist() if notes else []
        for finite, (_, complaint) in zip(flags, notes, strict=True):
            if not finite:
                raise UserError(complaint)
