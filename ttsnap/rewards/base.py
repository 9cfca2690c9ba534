"""What a reward promises to the stages that use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


@runtime_checkable
class Reward(Protocol):
    """What scores (image, prompt).

    Its class has ``load(settings, *, name, device, checkpoint)``, a classmethod that makes it from
    its section of the config. It may have ``Options``, the settings that ``settings.options`` are
    checked against. If its scores compare only the images of one call, as ranks do, it has
    ``relative = True``, and a search, which scores in batches, refuses it.

    Attributes:
        name: as in the config and in results.
        scale: in words, what the number is and its range.
    """

    name: str
    scale: str

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """Score images; a text is encoded once per prompt, not once per image.

        Args:
            images: (B, H, W, 3).
            prompts: B texts, one for each image.

        Returns:
            (B,), larger is better; NaN where a reward that asks somebody, such as a judge behind
            a network, got no answer.

        Raises:
            FloatingPointError: if a computed score is not finite, naming the image.
        """

    def tflops(self, height: int, width: int) -> float:
        """TFLOPs of scoring one image of this size in pixels whose text is already encoded."""


@runtime_checkable
class TrainableReward(Reward, Protocol):
    """A reward that noise-aware finetuning can train.

    ``forward(pixel_values(images), encode_texts(prompts))`` equals ``score(images, prompts)``.

    Attributes:
        module: holds all weights; finetuning changes it in place.
        tower: regular expression of the submodules that see the image; only these are trained, so
            that encoded texts stay valid.
    """

    module: torch.nn.Module
    tower: str

    def pixel_values(self, images: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
        """What `forward` takes, on the device of the module.

        Args:
            images: (B, H, W, 3) uint8 array, prepared exactly as the original model's processor
                does; or (B, 3, H, W) float tensor in [0, 1], prepared differentiably.
        """

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """One row per text, without gradient; a text seen before is not encoded again."""

    def forward(self, pixel_values: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Scores (B,) of B images with B rows of `encode_texts`, differentiable."""
