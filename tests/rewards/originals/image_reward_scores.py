"""Score by the package image-reward and by ours with the same random weights, and finetune ours.

``python -m … FOLDER`` in the environment of image-reward; FOLDER holds images.npy (B, H, W, 3),
texts.json and a tokenizer in ``bert-base-uncased``, and is the current folder. The model is the
package's own, but for fewer layers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tests.rewards.originals.torchvision_operators  # noqa: F401 isort: skip
import numpy as np
import torch
from PIL import Image

from ttsnap.config import Lora, Narf, RewardSettings
from ttsnap.narf.curriculum import finetune_step
from ttsnap.narf.data import StepData
from ttsnap.rewards import load_reward, load_trainable_reward
from ttsnap.rewards.image_reward import import_package

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
    from ImageReward.models.BLIP.vit import VisionTransformer

    vit = VisionTransformer(
        img_size=image_size, patch_size=16, embed_dim=1024, depth=LAYERS, num_heads=16
    )
    return vit, 1024


def main(folder: Path) -> None:
    package, blip_pretrain = import_package("imagereward")
    blip_pretrain.create_vit = shallow
    (folder / "med_config.json").write_text(json.dumps(BERT))
    torch.manual_seed(0)
    model = package.ImageReward(med_config=str(folder / "med_config.json"))
    for name, weight in model.named_parameters():
        weight.data.mul_(40 if name.startswith("mlp") else 4 if weight.ndim > 1 else 1)
    torch.save(model.state_dict(), folder / "ImageReward.pt")
    original = package.load(
        str(folder / "ImageReward.pt"), "cpu", med_config=str(folder / "med_config.json")
    )
    images = np.load(folder / "images.npy")
    texts = json.loads((folder / "texts.json").read_text())
    expected = [
        original.score(text, Image.fromarray(image))
        for image, text in zip(images, texts, strict=True)
    ]

    settings = RewardSettings(
        kind="image-reward", path=str(folder), options={"tokenizer": "bert-base-uncased"}
    )
    reward = load_trainable_reward(settings, name="imagereward")
    found = reward.score(images, texts)
    # The opposite of what it thinks, so that any learning shows in the ranking.
    teacher = -reward.score(images, texts[:1] * len(images))[None]
    data = StepData(images[None, :, None], (0,), texts[:1], teacher)
    targets = ["qkv", "proj", "fc1", "fc2", "query", "key", "value", "dense"]
    history = finetune_step(
        reward,
        data,
        Narf(lora=Lora(rank=2, targets=targets), epochs=4, learning_rate=3e-3),
        start=None,
        out=folder / "step_00",
        seed=0,
        val_data=data,
    )
    trained = load_reward(settings, name="imagereward", checkpoint=folder / "step_00")
    result = {
        "expected": expected,
        "found": found.tolist(),
        "finetuned": reward.score(images, texts).tolist(),
        "reloaded": trained.score(images, texts).tolist(),
        "losses": history["loss"].dropna().tolist(),
        "tflops": reward.tflops(224, 224),
    }
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
