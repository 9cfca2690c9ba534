"""What scores (image, prompt): one file per kind, collected by ``registry``; judges/ asks models.

Uses devices and FLOP counting of diffusion, reads stores, and knows of nothing that searches,
simulates or reports. Importing this imports neither torch nor transformers.
"""

from ttsnap.rewards.base import Reward, TrainableReward
from ttsnap.rewards.registry import (
    KINDS,
    Judge,
    find_kind,
    is_trainable,
    load_judge,
    load_reward,
    load_trainable_reward,
    require_kind,
)

__all__ = [
    "KINDS",
    "Judge",
    "Reward",
    "TrainableReward",
    "find_kind",
    "is_trainable",
    "load_judge",
    "load_reward",
    "load_trainable_reward",
    "require_kind",
]
