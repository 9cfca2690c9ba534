"""Score by our ImageReward, and finetune it: ``python -m … FOLDER``, in its environment.

FOLDER is the one that :mod:`tests.rewards.originals.image_reward_scores` wrote weights into.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tests.rewards.originals.torchvision_operators  # noqa: F401 isort: skip
import numpy as np

from ttsnap.config import Lora, Narf, RewardSettings
from ttsnap.narf.curriculum import finetune_step
from ttsnap.narf.data import StepData
from ttsnap.rewards import load_reward, load_trainable_reward
from ttsnap.rewards.image_reward import import_package


def main(folder: Path) -> None:
    _, blip_pretrain = import_package("imagereward")  # before the original can be imported here
    from tests.rewards.originals.image_reward_scores import shallow

    blip_pretrain.create_vit = shallow
    images = np.load(folder / "images.npy")
    texts = json.loads((folder / "texts.json").read_text())
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
        "found": found.tolist(),
        "finetuned": reward.score(images, texts).tolist(),
        "reloaded": trained.score(images, texts).tolist(),
        "losses": history["loss"].dropna().tolist(),
        "tflops": reward.tflops(224, 224),
    }
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
