"""How far scores in less than float32 agree with those in float32 on pictures of a generator.

    ttsnap search --prompts FILE --method best-of-n --budget 0.12 --keep-finals --out found
    python benchmarks/precision.py found

Prints one JSON object for the embedded reward: Kendall τ with float32 over all pictures, and its
mean over prompts, of bfloat16 and of TF32. The latter is emulated where there is no GPU, by
rounding what linear layers and convolutions are given to 10 bits behind the point.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import kendalltau

from ttsnap.config import RewardSettings
from ttsnap.rewards import load_trainable_reward
from ttsnap.rewards.base import TrainableReward

CLIP = Path(__file__).parents[1] / "ttsnap/shapes/weights/clip"


def main(folder: Path) -> None:
    images, prompts, groups = [], [], []
    for number, trace in enumerate(sorted(folder.glob("*/trace.jsonl"))):
        prompt = json.loads(trace.read_text(encoding="utf-8").split("\n")[0])["prompt"]
        for file in sorted(trace.parent.glob("finals/*.png")):
            images.append(np.array(Image.open(file).convert("RGB")))
            prompts.append(prompt)
            groups.append(number)
    scores = {}
    for precision in ("float32", "bfloat16", "tf32"):
        settings = RewardSettings(path=str(CLIP), options={"precision": precision})
        reward = load_trainable_reward(settings, name="clip", device="auto")
        if precision == "tf32" and reward.module.device.type != "cuda":
            emulate(reward)
        scores[precision] = reward.score(np.stack(images), prompts)
    exact, found = scores.pop("float32"), {}
    for precision, some in scores.items():
        of = [np.flatnonzero(np.array(groups) == one) for one in sorted(set(groups))]
        found[precision] = {
            "tau": kendalltau(some, exact).statistic,
            "tau_by_prompt": np.mean([kendalltau(some[at], exact[at]).statistic for at in of]),
            "largest_difference": float(abs(some - exact).max()),
        }
    print(json.dumps({"pictures": len(images), "deviation": float(exact.std()), **found}))


def emulate(reward: TrainableReward) -> None:
    """Give layers what a GPU would read of it."""
    for module in reward.module.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.weight.data = as_tf32(module.weight.data)
            module.register_forward_pre_hook(lambda _, given: (as_tf32(given[0]),))


def as_tf32(numbers: torch.Tensor) -> torch.Tensor:
    """Rounded to 10 bits behind the point."""
    bits = numbers.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
