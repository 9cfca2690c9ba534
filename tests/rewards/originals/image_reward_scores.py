"""Score by the package image-reward with random weights, and write these: ``python -m … FOLDER``.

In the environment of image-reward, with the versions of other packages before it that the package
was made for. FOLDER holds texts.json, med_config.json and images_0.npy, images_1.npy and so on,
each (B, H, W, 3), and is the current folder with a tokenizer in ``bert-base-uncased``. The model is
the package's own, but for fewer layers.
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


def shallow(size: str, image_size: int, *options: object) -> tuple[torch.nn.Module, int]:
    vit = VisionTransformer(
        img_size=image_size, patch_size=16, embed_dim=1024, depth=LAYERS, num_heads=16
    )
    return vit, 1024


def main(folder: Path) -> None:
    blip_pretrain.create_vit = shallow
    torch.manual_seed(0)
    model = ImageReward.ImageReward(med_config=str(folder / "med_config.json"))
    for name, weight in model.named_parameters():
        weight.data.mul_(40 if name.startswith("mlp") else 4 if weight.ndim > 1 else 1)
    torch.save(model.state_dict(), folder / "ImageReward.pt")
    original = ImageReward.load(
        str(folder / "ImageReward.pt"), "cpu", med_config=str(folder / "med_config.json")
    )
    texts = json.loads((folder / "texts.json").read_text())
    for file in sorted(folder.glob("images_*.npy")):
        scores = [
            original.score(text, Image.fromarray(image))
            for image, text in zip(np.load(file), texts, strict=True)
        ]
        np.save(file.with_name(file.name.replace("images", "scores")), scores)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
