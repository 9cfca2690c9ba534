"""GenEval's rules, and the reward over a tiny Mask2Former of the real classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPModel,
    CLIPTokenizer,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    SwinConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.mask2former.image_processing_pil_mask2former import (
    Mask2FormerImageProcessorPil,
)

from tests.tiny_clip import tiny_clip
from ttsnap.config import RewardSettings
from ttsnap.errors import UserError
from ttsnap.rewards import load_reward
from ttsnap.rewards.base import Reward
from ttsnap.rewards.geneval import Found, Rules, holds, relations

CLASSES = ["dog", "cat", "mouse"]
SIDE = 384  # at which the stock classes look at masks
COLORS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"]
LINES: list[dict[str, Any]] = [
    {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"},
    {
        "tag": "two_object",
        "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1}],
        "prompt": "a dog and a cat",
    },
    {
        "tag": "counting",
        "include": [{"class": "computer mouse", "count": 2}],
        "exclude": [{"class": "computer mouse", "count": 3}],
        "prompt": "two mice",
    },
    {
        "tag": "position",
        "include": [
            {"class": "cat", "count": 1},
            {"class": "dog", "count": 1, "position": ["left of", 0]},
        ],
        "prompt": "a dog left of a cat",
    },
    *(
        {
            "tag": "colors",
            "include": [{"class": "dog", "count": 1, "color": color}],
            "prompt": f"a {color} dog",
        }
        for color in COLORS
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mask2former")
    backbone = SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2],
        window_size=4, out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=32, dim_feedforward=32, encoder_layers=1, decoder_layers=2,
        num_attention_heads=2, num_queries=12, id2label=dict(enumerate(CLASSES)),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = Mask2FormerForUniversalSegmentation(config).eval()
    processor = Mask2FormerImageProcessorPil(size={"height": 64, "width": 64}, size_divisor=32)
    # At its usual scale an untrained model sees the same in every picture.
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(3)
    with torch.no_grad():
        pixels = processor(list(noise(12)), return_tensors="pt")["pixel_values"]
        classes = model(pixel_values=pixels).class_queries_logits
        head = model.class_predictor
        head.bias.sub_(classes.mean((0, 1)))
        for parameter in (head.weight, head.bias):
            parameter.mul_(4 / classes.std(0).mean())
    for part in (model, processor):
        part.save_pretrained(folder)
    tiny_clip(folder / "clip")
    (folder / "rules.jsonl").write_text("\n".join(map(json.dumps, LINES)))
    return folder


def load(folder: Path, **options: Any) -> Any:
    options = {
        "rules": str(folder / "rules.jsonl"),
        "clip": str(folder / "clip"),
        "counting_threshold": 0.4,
    } | options
    settings = RewardSettings(kind="detector", path=str(folder), options=options)
    return load_reward(settings, name="geneval")


def noise(count: int) -> np.ndarray:
    rough = np.random.default_rng(0).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return rough.repeat(SIDE // 6, 1).repeat(SIDE // 6, 2)


def by_stock(folder: Path, image: np.ndarray, threshold: float) -> dict[str, list[Found]]:
    """What the stock classes find, the most confident first."""
    model = Mask2FormerForUniversalSegmentation.from_pretrained(folder).eval()
    processor = Mask2FormerImageProcessorPil.from_pretrained(folder)
    with torch.no_grad():
        outputs = model(**processor([image], return_tensors="pt"))
    (whole,) = processor.post_process_instance_segmentation(
        outputs, threshold=threshold, target_sizes=[(SIDE, SIDE)], return_binary_maps=True
    )
    found: dict[str, list[tuple[float, Found]]] = {}
    for segment in whole["segments_info"]:
        mask = whole["segmentation"][segment["id"]].numpy() == 1
        rows, columns = np.nonzero(mask)
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        name = CLASSES[segment["label_id"]].replace("mouse", "computer mouse")
        found.setdefault(name, []).append((segment["score"], Found(box, mask)))
    return {
        name: [one for _, one in sorted(some, key=lambda pair: -pair[0])]
        for name, some in found.items()
    }


def colors_by_stock(folder: Path, image: np.ndarray, found: list[Found], kind: str) -> list[str]:
    """The colours of objects: zero-shot classification by the mean text of three templates."""
    model = CLIPModel.from_pretrained(folder / "clip").eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "clip")
    processor = CLIPImageProcessorPil.from_pretrained(folder / "clip")
    named = []
    for one in found:
        gray = Image.new("RGB", (SIDE, SIDE), "#999")
        seen = Image.composite(Image.fromarray(image), gray, Image.fromarray(one.mask))
        cut = np.asarray(seen.crop(one.box.tolist()))
        scores = []
        with torch.no_grad():
            pixels = processor([cut], return_tensors="pt")["pixel_values"]
            of_image = model.get_image_features(pixel_values=pixels).pooler_output[0]
            for color in COLORS:
                texts = [
                    f"a photo of a {color} {kind}",
                    f"a photo of a {color}-colored {kind}",
                    f"a photo of a {color} object",
                ]
                tokens = tokenizer(texts, padding=True, return_tensors="pt")
                rows = model.get_text_features(**tokens).pooler_output
                mean = (rows / rows.norm(dim=-1, keepdim=True)).mean(0)
                scores.append(float(of_image @ (mean / mean.norm())))
        named.append(COLORS[int(np.argmax(scores))])
    return named


def test_scores_follow_from_what_the_stock_models_find(folder: Path) -> None:
    reward = load(folder, batch_size=3)
    assert isinstance(reward, Reward)
    images, given, wanted = noise(8), [], []
    found = {share: [by_stock(folder, one, share) for one in images] for share in (0.3, 0.4)}
    assert len({str({name: len(some) for name, some in one.items()}) for one in found[0.3]}) > 2
    for line in LINES:
        given.append(reward.score(images, [line["prompt"]] * len(images)).tolist())
        rules = Rules.model_validate_json(json.dumps(line))
        share = 0.4 if line["tag"] == "counting" else 0.3
        wanted.append(
            [
                holds(rules, some, lambda group, kind, at=image: colors_by_stock(
                    folder, at, group, kind
                ))
                for image, some in zip(images, found[share], strict=True)
            ]
        )  # fmt: skip
    assert given == wanted
    several = [sum(row) for row in wanted]
    # Masks of an untrained model reach from side to side: nothing is left of anything.
    assert all(0 < count < len(images) for count in several[:3]), several
    assert sum(any(row) for row in wanted[4:]) > 1  # colours differ


def test_work_grows_with_the_colours_asked_for(folder: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(map(json.dumps, LINES[:4])))
    plain, coloured = load(folder, rules=str(few), clip=None), load(folder)
    color = coloured.clip.tflops(32, 32)
    expected = plain.tflops(32, 32) + 10 / 14 * color
    assert coloured.tflops(32, 32) == pytest.approx(expected)
    assert plain.tflops(32, 32) > 0


def test_what_cannot_be_judged_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'reward geneval: .*rules.jsonl says nothing about "x"'):
        load(folder).score(noise(1), ["x"])
    with pytest.raises(UserError, match=r"options\.clip: is missing; .* asks for colours"):
        load(folder, clip=None)
    file = tmp_path / "rules.jsonl"
    for line, words in {
        '{"tag": "a", "prompt": "p", "include": [{"class": "yak", "count": 1}]}': "knows no yak",
        '{"tag": "a", "prompt": "p", "include": []}': "include: List should have at least 1",
        '{"prompt": "p", "include": [{"class": "dog", "count": 1}]}': "tag: Field required",
        '{"tag": "a", "prompt": "p", "include": [{"class": "dog", "count": 1, "color": "teal"}]}': (
            r"include\.0\.color: Input should be 'red'"
        ),
    }.items():
        file.write_text(line)
        with pytest.raises(UserError, match=rf"rewards\.geneval\.options\.rules: .*{words}"):
            load(folder, rules=str(file))
    with pytest.raises(UserError, match="expected a Mask2Former, found clip"):
        load_reward(
            RewardSettings(
                kind="detector", path=str(folder / "clip"), options={"rules": str(file)}
            ),
            name="a",
        )


def thing(left: int, top: int, width: int = 10, height: int = 10) -> Found:
    return Found(np.array([left, top, left + width, top + height]), np.zeros((1, 1), bool))


def test_places_are_of_centres_and_want_some_distance() -> None:
    def of(one: Found, other: Found) -> set[str]:
        return relations(one.box, other.box)

    assert of(thing(0, 0), thing(50, 0)) == {"left of"}
    assert of(thing(50, 0), thing(0, 0)) == {"right of"}
    assert of(thing(0, 0), thing(0, 50)) == {"above"}
    assert of(thing(50, 60), thing(0, 0)) == {"right of", "below"}
    assert of(thing(0, 0), thing(0, 0)) == set()
    # A tenth of both widths is no distance, a little more is.
    assert of(thing(0, 0), thing(2, 0)) == set()
    assert of(thing(0, 0, 100, 100), thing(41, 0, 100, 100)) == {"left of"}
    assert of(thing(0, 0, 100, 100), thing(39, 0, 100, 100)) == set()


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ([("cat", 1)], [], True),
        ([("cat", 2)], [], True),
        ([("cat", 3)], [], False),
        ([("cat", 2)], [("cat", 3)], True),
        ([("cat", 1)], [("cat", 2)], False),
        ([("fox", 1)], [], False),
        ([("dog", 1), ("cat", 1, "left of", 0)], [], True),
        ([("dog", 1), ("cat", 2, "left of", 0)], [], False),  # the second cat is at the right
        ([("fox", 1), ("cat", 1, "left of", 0)], [], False),  # nothing to be left of
        ([("dog", 1), ("cat", 1, "above", 0)], [], False),
        ([("dog", 1), ("cat", 1, "left of", 5)], [], False),
        ([("cat", 1, "red")], [], True),
        ([("cat", 2, "red")], [], False),  # the second cat is blue
        ([("dog", 1, "red")], [], False),
    ],
)
def test_rules(include: list[tuple], exclude: list[tuple], expected: bool) -> None:
    found = {"cat": [thing(0, 0), thing(90, 0)], "dog": [thing(50, 0)]}
    colors = {"cat": ["red", "blue"], "dog": ["green"]}
    rules = []
    for name, count, *more in include:
        key = {1: "color", 2: "position"}.get(len(more))
        extra = {key: more if len(more) == 2 else more[0]} if key else {}
        rules.append({"class": name, "count": count, **extra})
    line = {
        "prompt": "p", "tag": "t", "include": rules,
        "exclude": [{"class": name, "count": count} for name, count in exclude],
    }  # fmt: skip
    parsed = Rules.model_validate_json(json.dumps(line))
    assert holds(parsed, found, lambda group, name: colors[name][: len(group)]) is expected
