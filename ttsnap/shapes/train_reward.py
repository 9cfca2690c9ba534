"""Training of the small CLIP that scores images of the shapes world.

A caption of this world is a handful of factors, so both towers are trained towards the same *code*:
a vector with one block per factor, in which the inner product of two codes counts the factors that
agree. The text tower learns the code of a caption, the vision tower that of a picture, including
pictures that are wrong in part, whose codes lie in between. The cosine of the two is
then a graded reward: each wrong attribute costs about the same. Contrast against captions with one
thing changed and a preference between pictures of the same caption sharpen the ranking.

No caption with `world.held_out` is trained on.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ttsnap.shapes import world
from ttsnap.shapes.codes import (
    CODE_SIZE,
    N_COLORS,
    N_SHAPES,
    SWAPS,
    Floats,
    Ints,
    code_of_rows,
    depictable,
    row_of,
    sample_rows,
    scene_of,
    swap,
)
from ttsnap.shapes.faulty import Pictures, paint

if TYPE_CHECKING:
    import torch
    from transformers import CLIPModel


LOGIT_SCALE = 10.0
TEXT_STEPS, TEXT_BATCH = 700, 256
VISION_STEPS = 3000
BATCH, GROUP = 128, 4
SAVE_EVERY = 250
MEAN = STD = 0.5


# -------------------------------------------------------------------------------------- model


def build_model(seed: int) -> tuple[CLIPModel, Any]:
    """An untrained CLIP of the right size, and its tokenizer."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    from ttsnap.shapes.tokenizer import MAX_LENGTH, build_tokenizer

    tokenizer = build_tokenizer()
    shared = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
        "projection_dim": CODE_SIZE,
    }
    config = CLIPConfig(
        text_config=shared
        | {
            "num_hidden_layers": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": MAX_LENGTH,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config=shared
        | {"num_hidden_layers": 4, "image_size": world.RESOLUTION, "patch_size": 4},
        projection_dim=CODE_SIZE,
        logit_scale_init_value=math.log(LOGIT_SCALE),
    )
    torch.manual_seed(seed)
    model = CLIPModel(config)
    # Places known from the start save the time of finding them out.
    table = model.vision_model.embeddings.position_embedding.weight
    with torch.no_grad():
        table[1:] = 0.1 * torch.from_numpy(_sinusoids(world.RESOLUTION // 4, table.shape[1]))
    return model, tokenizer


def _sinusoids(side: int, width: int) -> Floats:
    """Sines and cosines of the row and the column of each patch, (side * side, width)."""
    frequency = 10 ** -np.linspace(0, 1, width // 4)
    y, x = np.divmod(np.arange(side * side), side)
    waves = np.stack([y, x])[:, :, None] * frequency
    return np.concatenate([*np.sin(waves), *np.cos(waves)], axis=1).astype(np.float32)


def pixels(images: world.Images) -> torch.Tensor:
    """Images as the saved image processor hands them to the model, float32 (B, 3, H, W)."""
    import torch

    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (x - MEAN) / STD


def _tokens(tokenizer: Any, rows: Ints, device: torch.device) -> dict[str, torch.Tensor]:
    captions = [scene_of(row).caption for row in rows]
    return dict(tokenizer(captions, padding=True, return_tensors="pt").to(device))


def save(model: CLIPModel, out: Path) -> None:
    """Write the folder that `CLIPModel.from_pretrained` and `AutoProcessor` read, in half
    precision."""
    import copy

    from transformers import CLIPImageProcessor, CLIPProcessor

    from ttsnap.shapes.tokenizer import build_tokenizer

    processor = CLIPImageProcessor(
        size={"shortest_edge": world.RESOLUTION},
        crop_size={"height": world.RESOLUTION, "width": world.RESOLUTION},
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    )
    half = copy.deepcopy(model).to("cpu").half()
    half.set_attn_implementation("sdpa")
    half.save_pretrained(out)
    # A fresh tokenizer: one that was used keeps the padding of its last call.
    CLIPProcessor(image_processor=processor, tokenizer=build_tokenizer()).save_pretrained(out)


# ----------------------------------------------------------------------------------- training


def _rate(step: int, steps: int, peak: float) -> float:
    """Learning rate: linear warm-up over 4 %, then a cosine to a hundredth."""
    warm = max(1, steps // 25)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm))))


def train_text(model: CLIPModel, tokenizer: Any, seed: int, steps: int = TEXT_STEPS) -> float:
    """Teach the text tower the codes of captions; the mean cosine of the last 50 steps."""
    import torch
    from torch.nn.functional import cosine_similarity

    from ttsnap.shapes.precision import half_precision

    parameters = [*model.text_model.parameters(), *model.text_projection.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01)
    recent: list[float] = []
    for step in range(steps):
        rng = np.random.default_rng((seed, 1, step))
        rows = sample_rows(rng, TEXT_BATCH)
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, steps, 2e-3)
        with half_precision():
            hidden = model.text_model(**_tokens(tokenizer, rows, model.device)).pooler_output
        embeds = model.text_projection(hidden.float())
        codes = torch.from_numpy(code_of_rows(rows)).to(model.device)
        cosine = cosine_similarity(embeds, codes).mean()
        optimizer.zero_grad()
        (20 * (1 - cosine)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        recent = [*recent, cosine.item()][-50:]
        if step % 50 == 49:
            print(f"text {step + 1}/{steps} cosine {recent[-1]:.4f}", flush=True)
    return float(np.mean(recent))


def negatives(rows: Ints, rng: np.random.Generator) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Codes of wrong captions for each of N scenes, (N, K, CODE_SIZE), and which may be used."""
    kinds = [*("size", "color", "shape") * 3, "background", "reversed", "axis", *["exchange"] * 2]
    wrong = [swap(rows, kind, rng) for kind in kinds] + [rng.permutation(rows) for _ in range(6)]
    codes = np.stack([code_of_rows(w) for w in wrong], axis=1)
    usable = np.stack([depictable(w) for w in wrong], axis=1)
    usable &= np.einsum("nkd,nd->nk", codes, code_of_rows(rows)) < 0.99
    return codes, usable


class VisionTrainer:
    """The vision tower with the heads that only training needs."""

    def __init__(self, model: CLIPModel, seed: int, steps: int) -> None:
        import torch

        torch.manual_seed(seed + 1)
        self.model, self.seed, self.steps = model, seed, steps
        width = model.config.vision_config.hidden_size
        classes = 2 + N_COLORS + N_SHAPES
        self.heads = torch.nn.ModuleDict(
            {
                "patches": torch.nn.Linear(width, classes + 1),
                "pooled": torch.nn.Linear(width, 2 * classes + 2),
            }
        ).to(model.device)
        self.parameters = [
            *model.vision_model.parameters(),
            *model.visual_projection.parameters(),
            *self.heads.parameters(),
        ]
        self.optimizer = torch.optim.AdamW(self.parameters, betas=(0.9, 0.98), weight_decay=0.02)
        self.step_index = 0

    def batch(self, step: int) -> tuple[Pictures, Floats, Floats, npt.NDArray[np.bool_]]:
        """The pictures of a step: one half right, the other in groups that get worse."""
        rng = np.random.default_rng((self.seed, 2, step))
        half = BATCH // 2
        rows = np.concatenate(
            [sample_rows(rng, half), sample_rows(rng, half // GROUP).repeat(GROUP, axis=0)]
        )
        faults = np.concatenate([np.zeros(half, np.int64), np.tile([0, 1, 1, 2], half // GROUP)])
        faults[half:] += rng.random(half) < 0.15
        pictures = paint(rows, faults, rng)
        return pictures, code_of_rows(rows), *negatives(rows[:half], rng)

    def step(self) -> dict[str, float]:
        """One step of the optimizer; the parts of its loss."""
        import torch
        from torch.nn import functional as F

        from ttsnap.shapes.precision import half_precision

        pictures, asked, wrong, usable = self.batch(self.step_index)
        for group in self.optimizer.param_groups:
            group["lr"] = _rate(self.step_index, self.steps, 1.5e-3)
        device = self.model.device
        with half_precision():
            out = self.model.vision_model(pixels(pictures.images).to(device))
        pooled, tokens = out.pooler_output.float(), out.last_hidden_state[:, 1:].float()
        embeds = F.normalize(self.model.visual_projection(pooled), dim=-1)
        score = (embeds * torch.from_numpy(asked).to(device)).sum(1)
        truth = torch.from_numpy((pictures.codes * asked).sum(1)).to(device)
        half = BATCH // 2

        regression = 1 - (embeds * torch.from_numpy(pictures.codes).to(device)).sum(1).mean()
        right = score[:half, None]
        others = torch.einsum("nd,nkd->nk", embeds[:half], torch.from_numpy(wrong).to(device))
        logits = 30 * torch.cat([right, others], 1)
        logits[:, 1:].masked_fill_(~torch.from_numpy(usable).to(device), -1e4)
        contrast = F.cross_entropy(logits, torch.zeros(half, dtype=torch.long, device=device))
        grouped, goal = score[half:].view(-1, GROUP), truth[half:].view(-1, GROUP)
        gap = grouped[:, :, None] - grouped[:, None, :]
        goal_gap = goal[:, :, None] - goal[:, None, :]
        preference = F.softplus(-30 * gap[goal_gap > 0.03]).mean()
        auxiliary = self._auxiliary(pictures, pooled, tokens)
        loss = 20 * regression + contrast + preference + auxiliary
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step_index += 1
        with torch.no_grad():
            return {
                "regression": regression.item(),
                "contrast": contrast.item(),
                "preference": preference.item(),
                "auxiliary": auxiliary.item(),
                "top": float((logits.argmax(1) == 0).float().mean()),
                "pairs": float((gap[goal_gap > 0.03] > 0).float().mean()),
            }

    def _auxiliary(
        self, pictures: Pictures, pooled: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        """Name the objects, by patch and by place, in pictures without faults."""
        import torch
        from torch.nn import functional as F

        device = pooled.device
        good = pictures.faults == 0
        parts = [2, N_COLORS, N_SHAPES]
        loss = torch.zeros((), device=device)
        patches = torch.from_numpy(pictures.patches[good]).to(device)
        things = torch.from_numpy(pictures.things[good]).to(device)
        named = self.heads["patches"](tokens[torch.from_numpy(good).to(device)])
        loss = loss + F.binary_cross_entropy_with_logits(named[..., -1], (patches > 0).float())
        picture, patch = torch.nonzero(patches > 0, as_tuple=True)
        truth = things[picture, patches[picture, patch] - 1]
        for column, logits in enumerate(named[picture, patch][:, :-1].split(parts, dim=1)):
            loss = loss + 0.5 * F.cross_entropy(logits, truth[:, column])
        rows = pictures.captions[good]
        near = torch.from_numpy(rows[:, 3] % 2).to(device)
        index = torch.arange(len(rows), device=device)
        pooled = self.heads["pooled"](pooled[torch.from_numpy(good).to(device)])
        *places, axis = pooled.split([*parts, *parts, 2], dim=1)
        for k, logits in enumerate(places):
            which = near if k < 3 else 1 - near
            loss = loss + 0.5 * F.cross_entropy(logits, things[index, which, k % 3])
        return loss + 0.5 * F.cross_entropy(axis, torch.from_numpy(rows[:, 3] // 2).to(device))

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on from here."""
        return {
            "step": self.step_index,
            "steps": self.steps,
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step_index = state["step"]


def train(
    out: Path,
    seed: int = 0,
    steps: int = VISION_STEPS,
    text_steps: int = TEXT_STEPS,
    judged: int = 2000,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train the CLIP, save it under ``out`` and say how good it is.

    A run that was killed goes on where it last saved its state, in ``out/training.pt``; the state
    goes when the weights are there. The weights depend on the seed, the numbers of steps and the
    machine's arithmetic only.

    Returns:
        `evaluate` of the weights as saved on ``judged`` captions, with ``seed``, the steps and
        ``seconds``.
    """
    import torch
    from transformers import CLIPModel

    began = time.time()
    model, tokenizer = build_model(seed)
    model.to(torch.device(device))
    # The fused attention's backward pass is slow on CPUs.
    model.set_attn_implementation("eager")
    out.mkdir(parents=True, exist_ok=True)
    saved = out / "training.pt"
    trainer = VisionTrainer(model, seed, steps)
    if saved.exists():
        trainer.resume(torch.load(saved, map_location=model.device))
    else:
        train_text(model, tokenizer, seed, text_steps)
    recent: list[dict[str, float]] = []
    while trainer.step_index < steps:
        recent.append(trainer.step())
        done = trainer.step_index
        if done % 50 == 0:
            means = {name: np.mean([r[name] for r in recent]) for name in recent[0]}
            line = " ".join(f"{name} {value:.3f}" for name, value in means.items())
            print(f"vision {done}/{steps} {time.time() - began:.0f} s {line}", flush=True)
            recent = []
        if done % SAVE_EVERY == 0 and done < steps:
            partial = saved.with_suffix(".part")
            torch.save(trainer.state(), partial)
            partial.replace(saved)
    save(model, out)
    saved.unlink(missing_ok=True)
    seconds = time.time() - began
    model = CLIPModel.from_pretrained(out, dtype=torch.float32)
    result = evaluate(model, tokenizer, seed, judged)
    result |= {"seed": seed, "steps": steps, "text_steps": text_steps, "seconds": round(seconds)}
    print(json.dumps(result, indent=1), flush=True)
    return result


# --------------------------------------------------------------------------------- evaluation


def evaluate(model: CLIPModel, tokenizer: Any, seed: int, count: int = 2000) -> dict[str, Any]:
    """How well a trained CLIP reads pictures of captions it never saw.

    Returns:
        ``swaps``: for each kind of change, how often the true caption wins on ``count`` renderings;
        ``single``: the same over size, colour, shape and background, ``reversed`` included;
        ``pairs``: how often the better of two corrupted pictures of a caption wins.
    """
    import torch

    rng = np.random.default_rng((seed, 3))
    model = model.eval()

    def embed(images: world.Images) -> torch.Tensor:
        with torch.no_grad():
            parts = [
                model.get_image_features(pixel_values=pixels(part)).pooler_output
                for part in np.array_split(images, math.ceil(len(images) / 256))
            ]
        return torch.nn.functional.normalize(torch.cat(parts), dim=-1)

    def read(rows: Ints) -> torch.Tensor:
        with torch.no_grad():
            embeds = model.get_text_features(**_tokens(tokenizer, rows, model.device)).pooler_output
        return torch.nn.functional.normalize(embeds, dim=-1)

    captions = world.held_out_captions(count, seed)
    rows = np.array([row_of(world.Scene.parse(caption)) for caption in captions])
    images = embed(world.render([scene_of(row) for row in rows], rng))
    right = (images * read(rows)).sum(1)
    swaps: dict[str, float] = {}
    for kind in SWAPS:
        wrong = swap(rows, kind, rng)
        differs = (code_of_rows(wrong) * code_of_rows(rows)).sum(1) < 0.99
        valid = ((wrong[:, [1, 2]] != wrong[:, [5, 6]]).any(1)) & differs
        wins = right[valid] > (images[valid] * read(wrong[valid])).sum(1)
        swaps[kind] = float(wins.float().mean())
    asked = rows[: count // GROUP].repeat(GROUP, axis=0)
    pictures = paint(asked, np.tile([0, 1, 2, 3], len(asked) // GROUP), rng)
    text = read(asked)
    score = (embed(pictures.images) * text).sum(1).view(-1, GROUP)
    goal = torch.from_numpy((pictures.codes * code_of_rows(asked)).sum(1)).view(-1, GROUP)
    gap, goal_gap = (x[:, :, None] - x[:, None, :] for x in (score, goal))
    return {
        "single": float(np.mean([swaps[k] for k in SWAPS if k not in ("axis", "exchange")])),
        "swaps": swaps,
        "pairs": float((gap[goal_gap > 0.03] > 0).float().mean()),
        "pairs_by_faults": float((gap.triu(1)[goal_gap.triu(1) > 0.03] > 0).float().mean()),
        "graded_correlation": float(np.corrcoef(score.flatten(), goal.flatten())[0, 1]),
    }
