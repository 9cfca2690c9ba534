"""Lets torchvision be imported beside a torch without CUDA, where its own operators do not load.

Import this first. The operators are declared, not defined: nothing here calls them.
"""

from __future__ import annotations

import torch

if torch.version.cuda is None:
    LIBRARY = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
