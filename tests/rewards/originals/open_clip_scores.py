"""Write a small CLIP of open_clip, its vocabulary and its cosines: ``python -m … FOLDER``.

FOLDER holds images.npy (B, H, W, 3) and texts.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tests.rewards.originals.torchvision_operators  # noqa: F401 isort: skip
import numpy as np
import open_clip
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from PIL import Image

from tests.rewards.test_hpsv2 import CONTEXT, HEADS, LAYERS, PATCH, SIZE, WIDTH


def main(folder: Path) -> None:
    torch.manual_seed(0)
    tokenizer = open_clip.SimpleTokenizer(context_length=CONTEXT)
    model = open_clip.CLIP(
        WIDTH // 2,
        CLIPVisionCfg(LAYERS, WIDTH, head_width=WIDTH // HEADS, patch_size=PATCH, image_size=SIZE),
        CLIPTextCfg(CONTEXT, tokenizer.vocab_size, width=WIDTH, heads=HEADS, layers=LAYERS),
    ).eval()
    for name, weight in model.named_parameters():
        weight.data.mul_(4 if weight.ndim > 1 and "resblocks" in name else 1)
    prepare = open_clip.image_transform(
        SIZE, False, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    )
    images = [prepare(Image.fromarray(image)) for image in np.load(folder / "images.npy")]
    texts = tokenizer(json.loads((folder / "texts.json").read_text()))
    with torch.no_grad():
        image_rows, text_rows, _ = model(torch.stack(images), texts)
    np.save(folder / "scores.npy", (image_rows * text_rows).sum(-1).numpy())
    torch.save({"state_dict": model.state_dict()}, folder / "HPS_v2.1_compressed.pt")
    merges = [" ".join(pair) for pair in tokenizer.bpe_ranks]
    words = {"vocabulary": tokenizer.encoder, "merges": merges}
    (folder / "words.json").write_text(json.dumps(words))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
