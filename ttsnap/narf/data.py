"""What a curriculum step learns from: images of one step, and the reward of the final ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ttsnap.store import TrajectoryStore

GROUP = 8  # images of one prompt that stay together in a batch
IN_MEMORY = 2**31  # bytes; more is read from the store again and again


class Group(NamedTuple):
    """Where some images of one prompt at one step lie in an array (prompt, image, step, …)."""

    prompt: int
    images: slice
    step: int

    @property
    def size(self) -> int:
        return self.images.stop - self.images.start


@dataclass(frozen=True, eq=False)
class Batch:
    """B images of several prompts.

    Attributes:
        images: (B, H, W, 3) uint8.
        prompts: (B,) positions of their prompts.
        teacher: (B,) float32, the base reward of their final images.
    """

    images: NDArray[np.uint8]
    prompts: NDArray[np.intp]
    teacher: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class StepData:
    """Trajectories at one step, if wished with those at steps near by.

    Attributes:
        images: (prompt, image, step, H, W, 3) uint8, an array of numpy or Zarr.
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
    ) -> Self:
        """Read step index ``step`` and ``neighbours`` stored steps to either side of it.

        They are held in memory if they take at most ``IN_MEMORY`` bytes.

        Raises:
            UserError: if the step is not stored.
        """
        texts = [prompt.text for prompt in store.prompts]
        at = store.step_position(step)
        positions = range(max(0, at - neighbours), min(len(store.steps), at + neighbours + 1))
        if store.array.size // len(store.steps) * len(positions) > IN_MEMORY:
            return cls(store.array, tuple(positions), texts, teacher)
        images = np.stack([store.images(step=store.steps[p]) for p in positions], axis=2)
        return cls(images, tuple(range(len(positions))), texts, teacher)

    def __len__(self) -> int:
        return int(self.teacher.size)

    def plan(self, batch_size: int, rng: np.random.Generator | None = None) -> list[list[Group]]:
        """Deal all images once into batches of at most ``batch_size``.

        Images come in groups of one prompt and one step, so that a batch has pairs to compare.
        ``rng`` shuffles the groups and draws for each which of the steps it is read from. Without
        it the images come in order, from the first of the steps.
        """
        size = min(GROUP, batch_size)
        prompts, images = self.teacher.shape
        groups = [
            Group(prompt, slice(start, min(start + size, images)), self.positions[0])
            for prompt in range(prompts)
            for start in range(0, images, size)
        ]
        if rng is not None:
            drawn = rng.choice(self.positions, size=len(groups)).tolist()
            order = rng.permutation(len(groups))
            groups = [groups[i]._replace(step=drawn[i]) for i in order]
        batches: list[list[Group]] = [[]]
        for group in groups:
            if sum(other.size for other in batches[-1]) + group.size > batch_size:
                batches.append([])
            batches[-1].append(group)
        return batches

    def read(self, groups: Sequence[Group]) -> Batch:
        """Read the images of a batch."""
        return Batch(
            np.concatenate([self.images[group] for group in groups]),
            np.concatenate([np.full(group.size, group.prompt) for group in groups]),
            np.concatenate([self.teacher[group[:2]] for group in groups]),
        )
