"""Write random weights of ImageReward, in its environment: ``python -m … FOLDER``.

FOLDER holds med_config.json.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from ttsnap.rewards.image_reward_package import import_package


def main(folder: Path) -> None:
    package, blip_pretrain = import_package("imr")
    blip_pretrain.init_tokenizer = lambda: None  # it would be sought on a hub
    torch.manual_seed(0)
    model = package.ImageReward(med_config=str(folder / "med_config.json"))
    for weight in model.mlp.parameters():
        weight.data.mul_(40)
    torch.save(model.state_dict(), folder / "ImageReward.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
