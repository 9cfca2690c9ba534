"""What the checkpoints of several steps take of memory: each loaded whole, or sharing the rest.

    python benchmarks/verifiers.py --steps 4

The reward is a CLIP of PickScore's size with random weights, its checkpoints are LoRA adapters of
the usual rank. Prints one JSON object: gigabytes of all tensors after loading and, at most, after a
score, of the untouched reward, and of the reward with its checkpoints.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel

from ttsnap.config import Lora, RewardSettings
from ttsnap.rewards import load_reward
from ttsnap.rewards.base import Reward
from ttsnap.rewards.verifiers import load_verifiers

SIZES = {
    "text_config": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "hidden_act": "gelu",
    },
    "vision_config": {
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
        "num_attention_heads": 16, "hidden_act": "gelu", "patch_size": 14,
    },
    "projection_dim": 1024,
}  # fmt: skip
"""Of CLIP ViT-H/14."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, steps)
        settings = RewardSettings(path=name)
        found: list[Path | None] = [None, *(folder / f"step_{step}" for step in range(steps))]
        gigabytes = {
            "untouched": measured(lambda: [load_reward(settings, name="a")]),
            "apart": measured(
                lambda: [load_reward(settings, name="a", checkpoint=one) for one in found]
            ),
            "shared": measured(
                lambda: [*load_verifiers(settings, dict(enumerate(found)), name="a").values()]
            ),
        }
    print(json.dumps({"steps": steps, "torch": torch.__version__, "gigabytes": gigabytes}))


def write(folder: Path, steps: int) -> None:
    """The reward, and an adapter for each step."""
    from peft import LoraConfig, get_peft_model
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from ttsnap.rewards.checkpoint import wrapping
    from ttsnap.rewards.clip import ClipReward

    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(f"{one}</w>" for one in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    config = CLIPConfig(**SIZES)
    with torch.device("meta"):
        model = CLIPModel(config)
    model.to_empty(device="cpu")
    for weight in [*model.parameters(), *model.buffers()]:
        weight.data.normal_(std=0.02) if weight.is_floating_point() else weight.data.zero_()
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
    for part in (model, tokenizer, CLIPImageProcessorPil()):
        part.save_pretrained(folder)
    lora = Lora()
    targets = rf"({ClipReward.tower}).*\.({'|'.join(lora.targets)})"
    with wrapping():
        adapted = get_peft_model(
            model, LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets)
        )
    for step in range(steps):
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.data.normal_(std=0.01)
        adapted.save_pretrained(folder / f"step_{step}")


def measured(load: Callable[[], Sequence[Reward]]) -> dict[str, float]:
    """Gigabytes of tensors after loading, and the most after a score of any."""
    before = tensors()
    rewards = load()
    loaded = tensors() - before
    most, image = loaded, np.zeros((1, 224, 224, 3), np.uint8)
    for reward in rewards:
        reward.score(image, ["a"])
        most = max(most, tensors() - before)
    return {"loaded": loaded / 1e9, "most": most / 1e9}


def tensors() -> int:
    """Bytes of all tensors that are alive, each storage once."""
    gc.collect()
    found = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
    storages = [one.untyped_storage() for one in found]
    return sum({one.data_ptr(): one.nbytes() for one in storages}.values())


if __name__ == "__main__":
    main()
