"""Write a small CLIP of the package hpsv2, its vocabulary and its scores: ``python -m … FOLDER``.

FOLDER holds texts.json and images_0.npy, images_1.npy and so on, each (B, H, W, 3).
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import tests.rewards.originals.torchvision_operators  # noqa: F401 isort: skip
import numpy as np
import torch
from PIL import Image

from tests.rewards.test_hpsv2 import CONTEXT, HEADS, LAYERS, PATCH, SIZE, WIDTH


def place(package: str) -> Path:
    """The folder of a package that is not imported yet."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


# The published package lacks this file, and imports what needs a screen, by mistake.
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
shutil.copy(place("open_clip") / VOCABULARY, place("hpsv2") / "src/open_clip")
sys.modules["turtle"] = ModuleType("turtle")
sys.modules["turtle"].forward = None  # type: ignore[attr-defined]
from hpsv2.src.open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg  # noqa: E402
from hpsv2.src.open_clip.tokenizer import _tokenizer, tokenize  # noqa: E402
from hpsv2.src.open_clip.transform import image_transform  # noqa: E402


def main(folder: Path) -> None:
    torch.manual_seed(0)
    model = CLIP(
        WIDTH // 2,
        CLIPVisionCfg(LAYERS, WIDTH, head_width=WIDTH // HEADS, patch_size=PATCH, image_size=SIZE),
        CLIPTextCfg(CONTEXT, len(_tokenizer.encoder), width=WIDTH, heads=HEADS, layers=LAYERS),
        output_dict=True,
    ).eval()
    for name, weight in model.named_parameters():
        weight.data.mul_(4 if weight.ndim > 1 and "resblocks" in name else 1)
    prepare = image_transform(SIZE, is_train=False, resize_longest_max=True)
    rows = tokenize(json.loads((folder / "texts.json").read_text()), CONTEXT)
    for file in sorted(folder.glob("images_*.npy")):
        images = [prepare(Image.fromarray(image)) for image in np.load(file)]
        with torch.no_grad():
            found = model(torch.stack(images), rows)
        scores = (found["image_features"] * found["text_features"]).sum(-1).numpy()
        np.save(file.with_name(file.name.replace("images", "scores")), scores)
    torch.save({"state_dict": model.state_dict()}, folder / "HPS_v2.1_compressed.pt")
    merges = [" ".join(pair) for pair in _tokenizer.bpe_ranks]
    words = {"vocabulary": _tokenizer.encoder, "merges": merges}
    (folder / "words.json").write_text(json.dumps(words))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
