"""Score by the package image-reward with random weights, and write these: ``python -m … FOLDER``.

In the environment of image-reward, with the versions of other packages before it that the package
was made for. FOLDER holds images.npy (B, H, W, 3), texts.json and a tokenizer in
``bert-base-uncased``, and is the current folder. The model is the package's own, but for fewer
layers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tests.rewards.originals.torchvision_operators  # noqa: F401 isort: skip
import ImageReward
import numpy as np
import torch
from ImageReward.models.BLIP import blip_pretrain
from ImageReward.models.BLIP.vit import VisionTransformer
from PIL import Image

LAYERS = 2
BERT = {
    "vocab_size": 600,
    "hidden_size": 768,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 12,
    "intermediate_size": 256,
    "hidden_act": "gelu",
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "add_cross_attention": True,
    "encoder_width": 1024,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}


def shallow(size: str, image_size: int, *options: object) -> tuple[torch.nn.Module, int]:
    vit = VisionTransformer(
        img_size=image_size, patch_size=16, embed_dim=1024, depth=LAYERS, num_heads=16
    )
    return vit, 1024


def main(folder: Path) -> None:
    blip_pretrain.create_vit = shallow
    (folder / "med_config.json").write_text(json.dumps(BERT))
    torch.manual_seed(0)
    model = ImageReward.ImageReward(med_config=str(folder / "med_config.json"))
    for name, weight in model.named_parameters():
        weight.data.mul_(40 if name.startswith("mlp") else 4 if weight.ndim > 1 else 1)
    torch.save(model.state_dict(), folder / "ImageReward.pt")
    original = ImageReward.load(
        str(folder / "ImageReward.pt"), "cpu", med_config=str(folder / "med_config.json")
    )
    images = np.load(folder / "images.npy")
    texts = json.loads((folder / "texts.json").read_text())
    scores = [
        original.score(text, Image.fromarray(image))
        for image, text in zip(images, texts, strict=True)
    ]
    np.save(folder / "scores.npy", scores)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
