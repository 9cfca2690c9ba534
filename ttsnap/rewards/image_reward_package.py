"""ImageReward 1.0 (arXiv 2304.05977) by its own package, ``image-reward``, to compare with.

The package brings others that nothing else here needs, some of them at old versions, so it lives in
an environment of its own, ``envs/image-reward.yaml``. What the two share has one version in both.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from ttsnap.diffusion.devices import torch_device
from ttsnap.errors import UserError
from ttsnap.rewards.checkpoint import load_checkpoint
from ttsnap.rewards.image_reward import ImageRewardReward, read_parts
from ttsnap.rewards.stock import file_in, read_weights

if TYPE_CHECKING:
    from ttsnap.config import RewardSettings


class ImageRewardPackage(ImageRewardReward):
    """A `TrainableReward` over the package's model."""

    tower = r"blip\.visual_encoder|blip\.text_encoder|mlp"

    @classmethod
    def load(
        cls,
        settings: RewardSettings,
        *,
        name: str = "image-reward",
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Load weights and ``med_config.json`` from ``settings.path``, in float32.

        Raises:
            UserError: if the package or a part of the model is missing.
        """
        package, blip_pretrain = import_package(name)
        options, path, tokenizer = read_parts(settings, name)
        target = torch_device(device)
        # The package would fetch a tokenizer for its own `score`, which is not used.
        blip_pretrain.init_tokenizer = lambda: None
        med_config = file_in(path, settings.revision, "med_config.json")
        model = package.ImageReward(device=target, med_config=str(med_config))
        file = file_in(path, settings.revision, options.file)
        lacking = model.load_state_dict(read_weights(file), strict=False).missing_keys
        if weights := sorted({*lacking} & {key for key, _ in model.named_parameters()}):
            raise UserError(f"{file}: the weights lack {weights[0]}")
        if checkpoint is not None:
            load_checkpoint(model, checkpoint)
        return cls(model.to(target), tokenizer, name).at(options)

    def forward(self, pixel_values: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """See `TrainableReward.forward`."""
        tokens, mask = texts.long().unbind(1)
        with self.products():
            return self.module.score_gard(tokens, mask, pixel_values).squeeze(1).float()


def import_package(name: str) -> tuple[Any, Any]:
    """The package ``ImageReward`` and its module that builds the network.

    Raises:
        UserError: it is not installed; ``name`` is that of the reward.
    """
    if find_spec("ImageReward") is not None:
        _restore_helpers()
    try:
        # It silences all warnings of the process when it is imported.
        with warnings.catch_warnings():
            import ImageReward
            from ImageReward.models.BLIP import blip_pretrain
    except ImportError as error:
        raise UserError(
            f"rewards.{name}: kind image-reward-package runs in the environment that "
            f"envs/image-reward.yaml describes, as with snakemake --sdm conda ({error})"
        ) from None
    _restore_methods(blip_pretrain.BertModel)
    return ImageReward, blip_pretrain


def _restore_helpers() -> None:
    """Give `transformers.modeling_utils` the functions that the package imports from there.

    The package was written for transformers 4.
    """
    from transformers import modeling_utils, pytorch_utils

    modeling_utils.apply_chunking_to_forward = pytorch_utils.apply_chunking_to_forward
    modeling_utils.prune_linear_layer = pytorch_utils.prune_linear_layer
    modeling_utils.find_pruneable_heads_and_indices = None  # No heads are pruned here.


def _restore_methods(bert: Any) -> None:
    """Give the package's text encoder what it inherited from `PreTrainedModel` in its day."""

    def get_head_mask(self: Any, mask: None, layers: int) -> list[None]:
        return [mask] * layers

    def invert_attention_mask(self: Any, mask: torch.Tensor) -> torch.Tensor:
        """What to add to attention scores: nothing where the mask (B, L) is 1."""
        return (1 - mask[:, None, None].to(self.dtype)) * torch.finfo(self.dtype).min

    bert.all_tied_weights_keys = {}
    bert.get_head_mask = get_head_mask
    bert.invert_attention_mask = invert_attention_mask
