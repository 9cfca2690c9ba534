"""The kinds of reward by their names. A kind is one file with a class and one entry of `KINDS`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttsnap.errors import UserError
from ttsnap.lazy import Entry
from ttsnap.rewards.base import Reward, TrainableReward

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ttsnap.config import RewardSettings

Judge = Callable[["NDArray[np.uint8]", Sequence[str]], "NDArray[np.float32]"]
"""Takes images (B, H, W, 3) and B prompts, gives B numbers; it only looks at results."""


@dataclass(frozen=True)
class Kind(Entry):
    """A kind of reward.

    Attributes:
        description: in one line what it scores and needs.
        trainable: whether noise-aware finetuning can train it; an ensemble, as far as its members.
    """

    description: str
    trainable: bool = True


KINDS = {
    "aesthetic": Kind(
        "ttsnap.rewards.aesthetic",
        "AestheticReward",
        "How much people like the picture (LAION, version 2); path: a CLIP ViT-L/14.",
    ),
    "brightness": Kind(
        "ttsnap.rewards.brightness",
        "BrightnessReward",
        "Mean luma; needs nothing, cannot be finetuned.",
        trainable=False,
    ),
    "checklist": Kind(
        "ttsnap.rewards.judges.checklist",
        "Checklist",
        "Share of a prompt's checks that hold, by a service; options: model, checks.",
        trainable=False,
    ),
    "classifier": Kind(
        "ttsnap.rewards.classifier",
        "ClassifierReward",
        "Probability of a class; path: an image classifier of transformers.",
    ),
    "clip": Kind(
        "ttsnap.rewards.clip",
        "ClipReward",
        "Image fits prompt: PickScore, CLIPScore and the like; path: a CLIP.",
    ),
    "compressibility": Kind(
        "ttsnap.rewards.compressibility",
        "CompressibilityReward",
        "Smallness as a JPEG; needs nothing, cannot be finetuned.",
        trainable=False,
    ),
    "detector": Kind(
        "ttsnap.rewards.detector",
        "DetectorReward",
        "GenEval's rules: objects, counts, colours, places; path: a Mask2Former; options: rules.",
        trainable=False,
    ),
    "ensemble": Kind(
        "ttsnap.rewards.ensemble",
        "Ensemble",
        "Weighted sum of z-scores or ranks; options: other rewards of the config.",
    ),
    "gemini": Kind(
        "ttsnap.rewards.judges.gemini",
        "GeminiJudge",
        "Grades by Google's Gemini; options: model.",
        trainable=False,
    ),
    "hpsv2": Kind(
        "ttsnap.rewards.hpsv2",
        "Hpsv2Reward",
        "Human preference score, HPSv2 or 2.1; path: its checkpoint.",
    ),
    "hpsv3": Kind(
        "ttsnap.rewards.judges.hpsv3",
        "Hpsv3",
        "Human preference score 3; path: its checkpoint; options: base, instruction.",
        trainable=False,
    ),
    "http": Kind(
        "ttsnap.rewards.remote.client",
        "HttpReward",
        "A reward that `ttsnap serve-reward` serves; options: url.",
        trainable=False,
    ),
    "image-reward": Kind(
        "ttsnap.rewards.image_reward",
        "ImageRewardReward",
        "ImageReward 1.0; path: its folder.",
    ),
    "image-reward-package": Kind(
        "ttsnap.rewards.image_reward_package",
        "ImageRewardPackage",
        "The same by its own package, to compare with; runs in envs/image-reward.yaml only.",
    ),
    "ocr": Kind(
        "ttsnap.rewards.ocr",
        "OcrReward",
        "Text that the prompt quotes can be read; path: a TrOCR.",
        trainable=False,
    ),
    "openai": Kind(
        "ttsnap.rewards.judges.openai",
        "OpenAIJudge",
        "Grades by a service that speaks OpenAI's protocol; options: model.",
        trainable=False,
    ),
    "qalign": Kind(
        "ttsnap.rewards.judges.qalign",
        "QAlign",
        "Mean over five graded words, excellent to bad; path: a Qwen-VL.",
        trainable=False,
    ),
    "qwen-vl": Kind(
        "ttsnap.rewards.judges.qwen_vl",
        "QwenJudge",
        "Grades by a vision-language model on this machine; path: a Qwen-VL.",
        trainable=False,
    ),
    "siglip": Kind(
        "ttsnap.rewards.siglip",
        "SiglipReward",
        "Image fits prompt, by a SigLIP or what was finetuned from one; path: a SigLIP.",
    ),
    "soft-tifa": Kind(
        "ttsnap.rewards.judges.soft_tifa",
        "SoftTifa",
        "Right answers to questions about each prompt; path: a Qwen-VL; options: questions.",
        trainable=False,
    ),
    "unifiedreward": Kind(
        "ttsnap.rewards.judges.unified",
        "UnifiedReward",
        "Grades that UnifiedReward 2.0 writes; path: it; options: instruction.",
        trainable=False,
    ),
    "vqascore": Kind(
        "ttsnap.rewards.judges.vqascore",
        "VqaScore",
        "Probability of Yes, the image shows the prompt; path: a Qwen-VL.",
        trainable=False,
    ),
    "vqascore-openai": Kind(
        "ttsnap.rewards.judges.vqascore_openai",
        "RemoteVqaScore",
        "The same by a service that speaks OpenAI's protocol; options: model.",
        trainable=False,
    ),
}
"""The kinds that come with the package."""

ENTRY_POINTS = "ttsnap.rewards"
"""Group in which installed packages offer further kinds."""


def load_reward(
    settings: RewardSettings, *, name: str, device: str = "cpu", checkpoint: Path | None = None
) -> Reward:
    """Load the reward that ``settings`` describe.

    Args:
        settings: kind, path, revision and options.
        name: as in the config.
        device: as torch names it, or auto.
        checkpoint: folder that noise-aware finetuning wrote; none is the untouched reward.

    Raises:
        UserError: if kind, model or checkpoint is missing or not what it should be.
    """
    kind = find_kind(settings.kind, f"rewards.{name}.kind")
    reward = kind.load(settings, name=name, device=device, checkpoint=checkpoint)
    if not isinstance(reward, Reward):
        raise UserError(
            f"rewards.{name}.kind: {settings.kind} loads a {type(reward).__name__} without all of "
            "name, scale, score and tflops"
        )
    return reward


def load_trainable_reward(
    settings: RewardSettings, *, name: str, device: str = "cpu"
) -> TrainableReward:
    """Load the untouched reward that ``settings`` describe, to finetune it.

    Raises:
        UserError: as `load_reward`, or if it has nothing to train.
    """
    reward = load_reward(settings, name=name, device=device)
    if not isinstance(reward, TrainableReward):
        raise UserError(f"rewards.{name}: kind {settings.kind} cannot be finetuned")
    return reward


def is_trainable(settings: RewardSettings, name: str) -> bool:
    """Whether noise-aware finetuning can train a reward, as far as that shows without loading it.

    Args:
        settings: of the reward.
        name: as in the config.

    Raises:
        UserError: it is of no kind that there is.
    """
    summed = settings.options.get("by") != "rank"
    return summed and all(
        KINDS[kind].trainable if kind in KINDS else _has_training(kind, f"rewards.{name}.kind")
        for kind in settings.kinds
    )


def _has_training(kind: str, place: str) -> bool:
    """Whether a class that did not come with the package has the methods of `TrainableReward`."""
    try:
        found = find_kind(kind, place)
    except UserError as error:
        # The environment of the workflow alone need not have what the class imports.
        lacking = getattr(error.__cause__, "name", None)
        if isinstance(error.__cause__, ModuleNotFoundError) and not kind.startswith(str(lacking)):
            return True
        raise
    return all(hasattr(found, method) for method in ("pixel_values", "encode_texts", "forward"))


def find_kind(kind: str, place: str = "kind") -> Any:
    """The class of a built-in kind, of an entry point, or the one that ``MODULE:CLASS`` names.

    Modules are found in the current folder, too.

    Raises:
        UserError: there is none; ``place`` names the setting.
    """
    if kind in KINDS:
        return KINDS[kind].load()
    try:
        for entry in entry_points(group=ENTRY_POINTS, name=kind):
            return entry.load()
        require_kind(kind, place)
        module, _, name = kind.partition(":")
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        found = getattr(import_module(module), name)
    except (ImportError, ValueError, AttributeError) as error:
        raise UserError(f"{place}: {kind} cannot be imported ({error})") from error
    if not hasattr(found, "load"):
        raise UserError(f"{place}: {kind} has no classmethod load")
    return found


def require_kind(kind: str, place: str) -> None:
    """Refuse what is neither a kind, nor an entry point, nor looks like ``MODULE:CLASS``.

    Raises:
        UserError: ``place`` names the setting.
    """
    known = sorted({*KINDS, *entry_points(group=ENTRY_POINTS).names})
    if ":" not in kind and kind not in known:
        raise UserError(f"{place}: {kind} is neither MODULE:CLASS nor {', '.join(known)}")


def load_judge(place: str) -> Judge:
    """Import the function that ``place`` names as ``package.module:function``.

    What it returns is checked as that of a reward is.

    Raises:
        UserError: if there is none.
    """
    from ttsnap.rewards.function import FunctionReward

    module, _, name = place.partition(":")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, ValueError, AttributeError) as error:
        raise UserError(f"judge {place}: expected package.module:function ({error})") from None
    return FunctionReward(function).score
