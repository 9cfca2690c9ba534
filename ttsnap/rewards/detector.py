"""GenEval's rules over a stock detector: are the objects there, so many, so coloured, so placed?

The detector is a Mask2Former of transformers (arXiv 2112.01527), as GenEval's own is. Colours are
named by a CLIP, which sees each object cut out on gray. Read for both: ``evaluate_images.py`` of
https://github.com/djghosh13/geneval, and the instance branch of ``MaskFormerFusionHead`` of mmdet,
by which a detection's confidence is that of its class times the mean of its mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, get_args

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt

from ttsnap.config import RewardSettings, Settings, Text
from ttsnap.diffusion.devices import torch_device
from ttsnap.errors import UserError
from ttsnap.rewards.by_prompt import line_of, read_lines
from ttsnap.rewards.clip import ClipReward
from ttsnap.rewards.geneval import Color, Found, Rules, holds
from ttsnap.rewards.options import read_options, required_path
from ttsnap.rewards.stock import load_model, load_processor, model_type, repository

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLORS = get_args(Color)
COUNTING = "counting"  # tag of prompts that ask for a number
MOST = 16  # objects of a class
GRAY = np.uint8(0x99)  # what is around an object that is cut out
TEMPLATES = ("a photo of a {} {}", "a photo of a {}-colored {}", "a photo of a {} object")
NAMES = {"computer mouse": "mouse", "tv remote": "remote", "computer keyboard": "keyboard"}
"""What GenEval calls classes of COCO otherwise."""

Share = Annotated[float, Field(ge=0, le=1)]


class DetectorOptions(Settings):
    rules: Text = Field(
        description="JSON Lines, or JSON with an array, as GenEval's evaluation_metadata.jsonl: "
        "objects with prompt, tag, include and exclude."
    )
    clip: Text | None = Field(
        None,
        description="CLIP that names colours: a local folder or ORG/NAME@COMMIT; GenEval's is "
        "openai/clip-vit-large-patch14. Null: no rule asks for a colour.",
    )
    threshold: Share = Field(0.3, description="Confidence of an object, above which it counts.")
    counting_threshold: Share = Field(
        0.9, description="The same for prompts that ask for a number, tag counting."
    )
    batch_size: PositiveInt = Field(4, description="Images looked at at once.")


class DetectorReward:
    """A `Reward`: 1 where a picture keeps to the rules of its prompt, else 0."""

    Options = DetectorOptions
    scale = "1 where what was asked for is found, else 0"

    def __init__(
        self,
        model: Any,
        processor: Any,
        clip: ClipReward | None,
        options: DetectorOptions,
        name: str = "detector",
    ) -> None:
        """Take over a Mask2Former with its image processor.

        Raises:
            UserError: the rules cannot be read, name a class that the model does not know, or a
                colour without a CLIP that names it.
        """
        self.name = name
        self.options = options
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.clip = clip
        place = f"rewards.{name}.options"
        self.rules = read_lines(options.rules, f"{place}.rules", Rules)
        labels = {label: index for index, label in model.config.id2label.items()}
        self._labels: dict[str, int] = {}
        for one in sorted(set().union(*(rules.classes for rules in self.rules.values()))):
            label = one if one in labels else NAMES.get(one)
            if label not in labels:
                raise UserError(f"{place}.rules: {options.rules}: the model knows no {one}")
            self._labels[one] = labels[label]
        if clip is None and any(map(_coloured, self.rules.values())):
            raise UserError(f"{place}.clip: is missing; {options.rules} asks for colours")
        self._colors: dict[str, torch.Tensor] = {}

    @classmethod
    def load(
        cls,
        settings: RewardSettings,
        *,
        name: str = "detector",
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Load model and image processor from ``settings.path``, and the CLIP, in float32.

        Raises:
            UserError: if one is missing or of another kind, or the rules are no good.
        """
        from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

        options = read_options(DetectorOptions, settings, name)
        path, revision = required_path(settings, name), settings.revision
        if checkpoint is not None:
            raise UserError(f"{checkpoint}: reward {name} cannot be finetuned")
        if (kind := model_type(path, revision)) != "mask2former":
            raise UserError(f"{path}: expected a Mask2Former, found {kind}")
        model = load_model(Mask2FormerForUniversalSegmentation, path, revision)
        processor = load_processor(AutoImageProcessor, path, revision, backend="pil")
        clip = None
        if options.clip is not None:
            source = repository(options.clip, f"rewards.{name}.options.clip")
            of_clip = RewardSettings(path=source[0], revision=source[1])
            clip = ClipReward.load(of_clip, name=f"{name}.clip", device=device)
        return cls(model.to(torch_device(device)), processor, clip, options, name)

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Reward.score`.

        Raises:
            UserError: the file has no rules for a prompt.
        """
        rules = [line_of(self.rules, one, self.name, self.options.rules) for one in prompts]
        size = self.options.batch_size
        scores: list[bool] = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            outputs = self._outputs(part)
            for index, (image, rule) in enumerate(
                zip(part, rules[start : start + size], strict=True)
            ):
                found = self._found(outputs, index, rule, (image.shape[0], image.shape[1]))
                scores.append(holds(rule, found, partial(self._name_colors, image)))
        return np.array(scores, np.float32)

    def tflops(self, height: int, width: int) -> float:
        """See `Reward.tflops`; with as many colours as the file asks for of a prompt on average."""
        from ttsnap.diffusion.flops import tflops

        black = np.zeros((1, height, width, 3), np.uint8)
        named = np.mean([_coloured(rules) for rules in self.rules.values()])
        color = self.clip.tflops(height, width) if self.clip else 0.0
        return tflops(lambda: self._outputs(black)) + float(named) * color

    @torch.inference_mode()
    def _outputs(self, images: NDArray[np.uint8]) -> Any:
        pixels = self.processor(
            list(images), input_data_format="channels_last", return_tensors="pt"
        )
        return self.model(pixel_values=pixels["pixel_values"].to(self.model.device))

    def _found(
        self, outputs: Any, index: int, rules: Rules, size: tuple[int, int]
    ) -> dict[str, list[Found]]:
        """The objects of an image (of ``size``, height and width) that the rules are about."""
        threshold = (
            self.options.counting_threshold if rules.tag == COUNTING else self.options.threshold
        )
        # The last class is that of nothing.
        classes = outputs.class_queries_logits[index].softmax(-1)[:, :-1]
        sure, places = classes.flatten().topk(len(classes))
        logits = F.interpolate(outputs.masks_queries_logits[index][None], size, mode="bilinear")[0]
        found: dict[str, list[tuple[float, Found]]] = {name: [] for name in rules.classes}
        names = {self._labels[name]: name for name in rules.classes}
        for share, place in zip(sure.tolist(), places.tolist(), strict=True):
            query, label = divmod(place, classes.shape[1])
            inside = logits[query] > 0
            if label not in names or share <= threshold or not inside.any():
                continue
            confidence = share * logits[query][inside].sigmoid().mean().item()
            if confidence > threshold:
                mask = inside.cpu().numpy()
                found[names[label]].append((confidence, Found(_box(mask), mask)))
        return {
            name: [one for _, one in sorted(some, key=lambda pair: -pair[0])[:MOST]]
            for name, some in found.items()
        }

    def _name_colors(
        self, image: NDArray[np.uint8], found: Sequence[Found], kind: str
    ) -> list[str]:
        """The colour of each object, whose text is nearest to it."""
        assert self.clip is not None
        if kind not in self._colors:
            texts = [form.format(color, kind) for color in COLORS for form in TEMPLATES]
            rows = self.clip.encode_texts(texts).unflatten(0, (len(COLORS), -1)).mean(1)
            self._colors[kind] = rows / rows.norm(dim=-1, keepdim=True)
        named = []
        for one in found:
            left, top, right, bottom = one.box
            cut = np.where(one.mask[..., None], image, GRAY)[None, top:bottom, left:right]
            with torch.no_grad():
                scores = self.clip.forward(self.clip.pixel_values(cut), self._colors[kind])
            named.append(COLORS[int(scores.argmax())])
        return named


def _coloured(rules: Rules) -> int:
    """Objects whose colour is asked for."""
    return sum(rule.count for rule in rules.include if rule.color)


def _box(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Left, top, right, bottom of what is inside, the latter two one beyond it."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
