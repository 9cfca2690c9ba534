"""Human preference score, versions 2 and 2.1 (arXiv 2306.09341).

The published checkpoints are weights of open_clip's ViT-H-14. They are given the names of
`CLIPModel` here, so that neither open_clip nor torchvision is needed and LoRA finds its layers. The
score is the plain cosine of image and text. Texts are cleaned as open_clip does; images are fitted
into a black square whole, as the package ``hpsv2`` does, not cropped as other CLIPs want them.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from pydantic import Field, PositiveFloat

from ttsnap.config import Text
from ttsnap.rewards.clip import ClipReward, require_clip
from ttsnap.rewards.model import ModelOptions
from ttsnap.rewards.options import read_options, required_path
from ttsnap.rewards.pixels import Letterbox
from ttsnap.rewards.stock import file_in, load_model, load_tokenizer, read_weights, repository

if TYPE_CHECKING:
    from ttsnap.config import RewardSettings


class Hpsv2Options(ModelOptions):
    clip: Text = Field(
        description="CLIP ViT-H-14 in the format of transformers, for its shape and "
        "tokenizer (laion/CLIP-ViT-H-14-laion2B-s32B-b79K): a local folder, or ORG/NAME@COMMIT.",
    )
    file: Text = Field(
        "HPS_v2.1_compressed.pt",
        description="Checkpoint in the folder or repository that path names; "
        "HPS_v2_compressed.pt is version 2.",
    )
    factor: PositiveFloat = Field(
        1.0, description="The cosine is multiplied by this; 100 is common, too."
    )


class Hpsv2Reward(ClipReward):
    """A `TrainableReward` over a `CLIPModel` with the weights of HPSv2."""

    Options = Hpsv2Options

    @classmethod
    def load(
        cls,
        settings: RewardSettings,
        *,
        name: str = "hpsv2",
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Load weights from ``settings.path``, a file, a folder or a hub id, in float32.

        Raises:
            UserError: if a part is missing, or the weights are not those of the CLIP.
        """
        from transformers import CLIPConfig, CLIPModel

        options = read_options(Hpsv2Options, settings, name)
        path = required_path(settings, name)
        local = Path(path)
        file = local if local.is_file() else file_in(path, settings.revision, options.file)
        source = repository(options.clip, f"rewards.{name}.options.clip")
        require_clip(*source)
        config = CLIPConfig.from_pretrained(source[0], revision=source[1])
        weights = dict(renamed(read_weights(file)))
        return cls.assemble(
            load_model(CLIPModel, None, None, file, config=config, state_dict=weights),
            load_tokenizer(*source),
            Letterbox(config.vision_config.image_size),
            name=name,
            device=device,
            checkpoint=checkpoint,
            factor=options.factor,
        ).at(options)

    def _encode(self, texts: list[str]) -> torch.Tensor:
        return super()._encode([cleaned(text) for text in texts])


def cleaned(text: str) -> str:
    """Broken Unicode mended, HTML entities replaced, white space joined, as open_clip does."""
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


_PLACES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.proj": "visual_projection.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
_NORMS = {
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "ln_final": "text_model.final_layer_norm",
}
_PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)")


def renamed(state: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights of open_clip's CLIP under the names that `CLIPModel` gives them.

    Projections are transposed, and the joint projection of an attention is split in its three.
    """
    for name, tensor in state.items():
        norm, _, kind = name.rpartition(".")
        if name in _PLACES:
            transposed = name in ("visual.proj", "text_projection")
            yield _PLACES[name], tensor.T.contiguous() if transposed else tensor
        elif norm in _NORMS:
            yield f"{_NORMS[norm]}.{kind}", tensor
        elif match := _BLOCK.fullmatch(name):
            tower = "vision_model" if match[1] else "text_model"
            place = f"{tower}.encoder.layers.{match[2]}"
            if match[3] == "attn.in_proj":
                for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                    yield f"{place}.self_attn.{part}_proj.{match[4]}", piece.clone()
            else:
                yield f"{place}.{_PARTS[match[3]]}.{match[4]}", tensor
