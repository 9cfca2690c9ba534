"""Score by the network of the package hpsv3: ``python -m … FOLDER``.

FOLDER holds config.json and the checkpoint of a small network, and inputs.pt, what the network
takes, one image at a time. What the package imports for training is left out.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import Qwen2VLConfig, trainer  # noqa: F401


class Unused(ModuleType):
    """A module of which nothing is called."""

    def __getattr__(self, name: str) -> Any:
        return type(name, (), {})


UNUSED = ("datasets", "peft", "trl", "torch.utils.tensorboard", "hpsv3.utils.training_utils")
for name in (*UNUSED, "torchvision", "torchvision.transforms"):
    sys.modules[name] = Unused(name)
# The package itself imports all of it when it is imported.
spec = find_spec("hpsv3")
assert spec is not None
sys.modules["hpsv3"] = ModuleType("hpsv3")
sys.modules["hpsv3"].__path__ = spec.submodule_search_locations
from hpsv3.model.qwen2vl_trainer import Qwen2VLRewardModelBT  # noqa: E402


def main(folder: Path) -> None:
    config = Qwen2VLConfig(**json.loads((folder / "original.json").read_text()))
    config._attn_implementation = "eager"
    inputs = torch.load(folder / "inputs.pt", weights_only=True)
    token = inputs.pop("token").tolist()
    model = Qwen2VLRewardModelBT(
        config,
        output_dim=2,
        reward_token="special",
        special_token_ids=token,
        rm_head_type="ranknet",
    )
    model.load_state_dict(load_file(folder / "HPSv3.safetensors"), strict=True)
    model.eval()
    scores = []
    with torch.no_grad():
        for number in range(len(inputs["counts"])):
            one = {
                key: inputs[f"{key}_{number}"]
                for key in ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")
            }
            scores.append(model(return_dict=True, **one)["logits"][0, 0].item())
    (folder / "scores.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
