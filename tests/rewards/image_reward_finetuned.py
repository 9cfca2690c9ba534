"""Score by our ImageReward, and finetune it: ``python -m … KIND FOLDER``.

KIND is image-reward, or in its environment image-reward-package. FOLDER is the one that
:mod:`tests.rewards.originals.image_reward_scores` wrote weights into.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from ttsnap.config import Lora, Narf, RewardSettings
from ttsnap.narf.curriculum import finetune_step
from ttsnap.narf.data import StepData
from ttsnap.rewards import load_reward, load_trainable_reward

TARGETS = ["qkv", "proj", "projection", "fc1", "fc2", "query", "key", "value", "dense"]


def let_the_package_be_shallow() -> None:
    import tests.rewards.originals.torchvision_operators  # noqa: F401
    from ttsnap.rewards.image_reward_package import import_package

    _, blip_pretrain = import_package("imagereward")  # before the original can be imported here
    from tests.rewards.originals.image_reward_scores import shallow

    blip_pretrain.create_vit = shallow


def main(kind: str, folder: Path) -> None:
    if kind == "image-reward-package":
        let_the_package_be_shallow()
    images = [np.load(file) for file in sorted(folder.glob("images_*.npy"))]
    texts = json.loads((folder / "texts.json").read_text())
    settings = RewardSettings(
        kind=kind, path=str(folder), options={"tokenizer": "bert-base-uncased"}
    )
    reward = load_trainable_reward(settings, name="imagereward")
    found = [reward.score(some, texts).tolist() for some in images]
    # The opposite of what it thinks, so that any learning shows in the ranking.
    teacher = -reward.score(images[0], texts[:1] * len(texts))[None]
    data = StepData(images[0][None, :, None], (0,), texts[:1], teacher)
    out = folder / kind / "step_00"
    history = finetune_step(
        reward,
        data,
        Narf(lora=Lora(rank=2, targets=TARGETS), epochs=4, learning_rate=3e-3),
        start=None,
        out=out,
        seed=0,
        val_data=data,
    )
    trained = load_reward(settings, name="imagereward", checkpoint=out)
    result = {
        "found": found,
        "finetuned": reward.score(images[0], texts).tolist(),
        "reloaded": trained.score(images[0], texts).tolist(),
        "losses": history["loss"].dropna().tolist(),
        "tflops": reward.tflops(224, 224),
    }
    (folder / f"{kind}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
