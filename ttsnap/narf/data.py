"""What a curriculum step learns from: images of one step, and the reward of the final ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ttsnap.diffusion.linear_preview import LinearPreview, Previews

if TYPE_CHECKING:
    from ttsnap.store.trajectories import TrajectoryStore

GROUP = 8  # images of one prompt that stay together in a batch
IN_MEMORY = 2**31  # bytes; more is read from the store again and again


class ImageGroup(NamedTuple):
    """Where some images of one prompt at one step lie in an array (prompt, image, step, …)."""

    prompt: int
    images: slice
    step: int

    @property
    def size(self) -> int:
        return self.images.stop - self.images.start


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """B images of several prompts, of which a process reads its share.

    Attributes:
        images: (b, H, W, 3) uint8, those of ``share``; one too many where the share is empty.
        prompts: (B,) positions of the prompts of all images.
        teacher: (B,) float32, the base reward of all final images.
        share: where ``images`` lie among the B.
    """

    images: NDArray[np.uint8]
    prompts: NDArray[np.intp]
    teacher: NDArray[np.float32]
    share: slice


@dataclass(frozen=True, eq=False)
class StepData:
    """Trajectories at one step, if wished with those at steps near by.

    Attributes:
        images: (prompt, image, step, H, W, 3) uint8, of numpy or Zarr, or previews.
        positions: where on the axis of steps to read.
        texts: one per prompt.
        teacher: (prompt, image) float32, the base reward of the final images.
    """

    images: Any
    positions: tuple[int, ...]
    texts: Sequence[str]
    teacher: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.images.shape[:2] != self.teacher.shape or len(self.texts) != len(self.teacher):
            raise ValueError(
                f"images {self.images.shape}, teacher {self.teacher.shape} and {len(self.texts)} "
                "texts do not fit together"
            )

    @classmethod
    def from_store(
        cls,
        store: TrajectoryStore,
        teacher: NDArray[np.float32],
        step: int,
        neighbours: int = 0,
        preview: LinearPreview | None = None,
    ) -> Self:
        """Read step index ``step`` and ``neighbours`` stored steps to either side of it.

        They are held in memory if they take at most ``IN_MEMORY`` bytes. With ``preview`` the
        images are what it shows of the latents, which the store must keep.

        Raises:
            UserError: if the step is not stored, or no latents are kept.
        """
        texts = [prompt.text for prompt in store.prompts]
        at = store.step_position(step)
        positions = range(max(0, at - neighbours), min(len(store.steps), at + neighbours + 1))
        stored: Any = store.array if preview is None else store.latents
        read = store.images if preview is None else store.latents_of
        if stored.nbytes // len(store.steps) * len(positions) <= IN_MEMORY:
            everyone = slice(None)
            stored = np.stack([read(everyone, store.steps[p]) for p in positions], axis=2)
            positions = range(len(positions))
        images = stored if preview is None else Previews(stored, preview)
        return cls(images, tuple(positions), texts, teacher)

    def __len__(self) -> int:
        return int(self.teacher.size)

    def plan(
        self, batch_size: int, rng: np.random.Generator | None = None
    ) -> list[list[ImageGroup]]:
        """Deal all images once into batches of at most ``batch_size``.

        Images come in groups of one prompt and one step, so that a batch has pairs to compare.
        ``rng`` shuffles the groups and draws for each which of the steps it is read from. Without
        it the images come in order, from the first of the steps.
        """
        size = min(GROUP, batch_size)
        prompts, images = self.teacher.shape
        groups = [
            ImageGroup(prompt, slice(start, min(start + size, images)), self.positions[0])
            for prompt in range(prompts)
            for start in range(0, images, size)
        ]
        if rng is not None:
            drawn = rng.choice(self.positions, size=len(groups)).tolist()
            order = rng.permutation(len(groups))
            groups = [groups[i]._replace(step=drawn[i]) for i in order]
        batches: list[list[ImageGroup]] = [[]]
        for group in groups:
            if sum(other.size for other in batches[-1]) + group.size > batch_size:
                batches.append([])
            batches[-1].append(group)
        return batches

    def read(
        self, groups: Sequence[ImageGroup], process: int = 0, processes: int = 1
    ) -> TrainingBatch:
        """Read a batch; of several processes each reads as many of the images, give or take one."""
        size = sum(group.size for group in groups)
        share = slice(size * process // processes, size * (process + 1) // processes)
        # A process without an image would have no gradients to add to those of the others.
        own = _cut(groups, share.start, max(share.stop, share.start + 1))
        return TrainingBatch(
            np.concatenate([self.images[group] for group in own]),
            np.concatenate([np.full(group.size, group.prompt) for group in groups]),
            np.concatenate([self.teacher[group[:2]] for group in groups]),
            share,
        )


def _cut(groups: Sequence[ImageGroup], start: int, stop: int) -> Iterator[ImageGroup]:
    """The images ``start`` to ``stop``, counted over all ``groups``."""
    for group in groups:
        first, last = max(start, 0), min(stop, group.size)
        if first < last:
            begin = group.images.start
            yield group._replace(images=slice(begin + first, begin + last))
        start, stop = start - group.size, stop - group.size
