"""What SDXL, Flux and Z-Image take on a GPU: full size, random weights, no download.

    python benchmarks/gpu.py [--models sdxl flux z-image] [--repeats 3] [--compile] [--out FILE]
        [--tiny]

Builds the architectures of `config/sdxl.yaml`, `config/flux.yaml` and `config/z-image-turbo.yaml`
and a PickScore-sized reward with random weights, and runs them with the settings of these files,
but without NegToMe, which the stock pipelines do not have, and with encoded prompts made up, so
that there are no text encoders:

- the pipeline's own call, and the trajectory run of the workflow on the same batches, once keeping
  the final images only, as the pipeline does, and once decoding and storing every step;
- scores; one step of noise-aware finetuning of all weights on the images of an early step;
- best-of-N and TTSnap live at the same N, the untouched reward standing for its checkpoints;
- with ``--compile`` instead of all that, one step of a batch, with the denoiser compiled and not.

Writes a Markdown table, which names the device, to FILE, anew after each model, or to standard
output. Speeds of the
trajectory run are ratios to the pipeline's call in the same process. Both models are meant for a
GPU of 80 GB. Nothing that is measured depends on what the weights are. ``--tiny`` replaces the
models by tiny ones of the same classes, to see on any machine that all of it runs; its numbers mean
nothing.
"""

from __future__ import annotations

import argparse
import inspect
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

from ttsnap.config import Config, load_config
from ttsnap.diffusion import from_pipeline
from ttsnap.diffusion.architectures import ARCHITECTURES, Architecture
from ttsnap.diffusion.compiling import compile_denoiser
from ttsnap.diffusion.devices import torch_device
from ttsnap.diffusion.flops import seconds
from ttsnap.diffusion.sampler import Conditioning, Sampler
from ttsnap.generate import generate_block
from ttsnap.narf.curriculum import finetune_step
from ttsnap.narf.data import StepData
from ttsnap.progress import quiet_libraries
from ttsnap.prompts import Prompt
from ttsnap.rewards.clip import ClipReward
from ttsnap.rewards.pixels import Preparation
from ttsnap.schedule import Check, Schedule
from ttsnap.searching import SearchResult
from ttsnap.searching.budget import Budget
from ttsnap.searching.methods.pruning import Pruning
from ttsnap.searching.searcher import Searcher
from ttsnap.store.trajectories import TrajectoryStore, create_store, open_store

ROOT = Path(__file__).parents[1]
PROMPTS = [Prompt(f"p{number}", f"prompt {number}", "", 0) for number in range(2)]

PIPELINES: dict[str, tuple[Any, str, Any]] = {
    "sdxl": (
        partial(diffusers.StableDiffusionXLPipeline, add_watermarker=False),
        "unet",
        partial(
            diffusers.EulerDiscreteScheduler,
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
    ),
    "flux": (
        diffusers.FluxPipeline,
        "transformer",
        partial(
            diffusers.FlowMatchEulerDiscreteScheduler,
            shift=3.0,
            use_dynamic_shifting=True,
            max_image_seq_len=4096,
        ),
    ),
    "z-image": (
        diffusers.ZImagePipeline,
        "transformer",
        partial(diffusers.FlowMatchEulerDiscreteScheduler, shift=3.0),
    ),
}
"""Model -> pipeline, name of its denoiser, and the scheduler that it is published with."""

CONFIGS = {"z-image": "z-image-turbo"}
"""Model -> its configuration, where that has another name."""

TINY_VAE = {"block_out_channels": [8] * 4, "layers_per_block": 1, "norm_num_groups": 8}
TINY: dict[str, dict[str, Any]] = {
    "sdxl": {
        "block_out_channels": [16, 32, 32],
        "norm_num_groups": 8,
        "attention_head_dim": [2, 4, 4],
        "transformer_layers_per_block": 1,
        "cross_attention_dim": 32,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 16,
    },
    "flux": {
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 16,
        "axes_dims_rope": [4, 6, 6],
    },
    "z-image": {
        "dim": 32,
        "n_layers": 1,
        "n_refiner_layers": 1,
        "n_heads": 2,
        "n_kv_heads": 2,
        "cap_feat_dim": 16,
        "axes_dims": [4, 6, 6],
    },
}
"""Model -> what makes its denoiser tiny."""

Rows = dict[str, str]
"""What was measured -> number with unit."""


@dataclass
class Subject:
    """A model with what it is run on and with."""

    config: Config
    pipe: Any
    sampler: Sampler
    texts: Conditioning
    reward: ClipReward
    batch: int

    def call(self) -> None:
        """The pipeline's own call for a batch of each prompt."""
        sampling = self.config.sampling
        for number in range(len(PROMPTS)):
            rows = self.texts.select(torch.tensor([number] * self.batch)).tensors
            apart = "prompt_mask" in rows  # texts of their own lengths, which here are the same
            self.pipe(
                **{
                    _argument(name): list(tensor) if apart else tensor
                    for name, tensor in rows.items()
                    if not name.endswith("mask")
                },
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance_scale,
                height=sampling.height,
                width=sampling.width,
                output_type="np",
            )

    def generate(self, folder: Path, steps: Sequence[int]) -> TrajectoryStore:
        """The trajectory run for the same, in a store of some steps that is made anew."""
        shutil.rmtree(folder, ignore_errors=True)
        sampling = self.config.sampling
        store = create_store(
            folder / "test.zarr",
            prompts=PROMPTS,
            seeds=np.arange(len(PROMPTS) * self.batch).reshape(len(PROMPTS), self.batch),
            steps=steps,
            sigmas=self.sampler.sigmas[list(steps)],
            height=sampling.height,
            width=sampling.width,
            block=len(PROMPTS),
            settings={},
        )
        receipt = folder / "block.json"
        generate_block(self.sampler, store, 0, receipt=receipt, batch_size=self.batch)
        return store


def _argument(name: str) -> str:
    """How a pipeline's call names what a sampler names ``prompt``, ``negative_pooled``, …"""
    negative, pooled = name.startswith("negative"), name.endswith("pooled")
    return "negative_" * negative + "pooled_" * pooled + "prompt_embeds"


def subject(name: str, tiny: bool) -> Subject:
    """Build a model of random weights where it is to run."""
    config = load_config(ROOT / "config" / f"{CONFIGS.get(name, name)}.yaml")
    changes: dict[str, Any] = {"negtome": None}
    if tiny:
        changes |= {"steps": 6, "height": 64, "width": 64}
    sampling = config.sampling.model_copy(update=changes)
    config = config.model_copy(update={"sampling": sampling})
    device = torch_device("auto")
    dtype = torch.float32 if tiny else getattr(torch, config.model.dtype)
    architecture = _shrunk(name) if tiny else ARCHITECTURES[name]
    make, denoiser, scheduler = PIPELINES[name]
    with torch.device(device), _default(dtype):
        parts = {
            denoiser: _module(architecture.denoiser),
            "vae": _module(architecture.vae or {}),
        }
    texts = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    left_out = dict.fromkeys(name for name in texts if name in inspect.signature(make).parameters)
    pipe = make(**parts, **left_out, scheduler=scheduler())
    pipe.set_progress_bar_config(disable=True)
    sampler = from_pipeline(pipe, sampling)
    made_up = _texts(architecture, sampler)

    def encode(asked: Sequence[str], _: Sequence[str]) -> Conditioning:
        known = [prompt.text for prompt in PROMPTS]
        return made_up.select(torch.tensor([known.index(t) if t else 0 for t in asked]))

    vars(sampler)["encode"] = encode  # in place of the method, which needs text encoders
    batch = 2 if tiny else config.runtime.batch_size
    return Subject(config, pipe, sampler, made_up, _reward(tiny, device), batch)


def _shrunk(name: str) -> Architecture:
    full = ARCHITECTURES[name]
    return Architecture({**full.denoiser, **TINY[name]}, {**(full.vae or {}), **TINY_VAE}, 8)


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _module(settings: Mapping[str, Any]) -> Any:
    return getattr(diffusers, settings["_class_name"]).from_config(dict(settings)).eval()


def _texts(architecture: Architecture, sampler: Sampler) -> Conditioning:
    """Made-up encoded prompts in the shapes of the real ones."""
    settings = sampler.denoiser.config
    if "cap_feat_dim" in settings:
        shape = (len(PROMPTS), architecture.text_tokens, settings.cap_feat_dim)
        prompt = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        prompt = prompt.to(sampler.device, sampler.denoiser.dtype)
        return Conditioning({"prompt": prompt, "prompt_mask": torch.ones(shape[:2]) > 0})
    if "pooled_projection_dim" in settings:
        width, pooled = settings.joint_attention_dim, settings.pooled_projection_dim
    else:
        times = 6 * settings.addition_time_embed_dim
        width = settings.cross_attention_dim
        pooled = settings.projection_class_embeddings_input_dim - times
    shapes = {"prompt": (architecture.text_tokens, width), "prompt_pooled": (pooled,)}
    if sampler.guided:
        shapes |= {name.replace("prompt", "negative", 1): s for name, s in shapes.items()}
    generator = torch.Generator().manual_seed(0)
    return Conditioning(
        {
            name: torch.randn(len(PROMPTS), *shape, generator=generator).to(
                sampler.device, sampler.dtype
            )
            for name, shape in shapes.items()
        }
    )


def _reward(tiny: bool, device: torch.device) -> ClipReward:
    """A CLIP of the size of PickScore, ViT-H/14, with a tokenizer of bytes."""
    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(letter + "</w>" for letter in letters)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)}, merges=[], model_max_length=77
    )

    def tower(hidden: int, layers: int, heads: int) -> dict[str, int]:
        return {
            "hidden_size": hidden,
            "intermediate_size": 4 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
        }

    text, vision = tower(1024, 24, 16), tower(1280, 32, 16) | {"patch_size": 14}
    if tiny:
        text, vision = tower(32, 2, 2), tower(32, 2, 2) | {"patch_size": 56}
    last = len(pieces) - 1
    text |= {"vocab_size": len(pieces), "bos_token_id": last - 1, "eos_token_id": last}
    config = transformers.CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=text["hidden_size"]
    )
    with torch.device(device):
        model = transformers.CLIPModel(config)
    return ClipReward(model, tokenizer, Preparation(224, (224, 224)), "pic")


def measure(subject: Subject, folder: Path, n: int, repeats: int) -> Rows:
    """All that the table says of a model."""
    sampling, batch, sampler = subject.config.sampling, subject.batch, subject.sampler
    steps = sampling.steps
    images = len(PROMPTS) * batch
    rows = {
        "pixels, steps, batch": f"{sampling.height} x {sampling.width}, {steps}, {batch}",
        "precision": str(sampler.denoiser.dtype).removeprefix("torch."),
    }

    with peak(rows, "memory of the pipeline's call"):
        alone = seconds(subject.call, repeats)
    rows["pipeline's call, images/s"] = f"{images / alone:.3g}"
    with peak(rows, "memory of the trajectory run"):
        final = seconds(lambda: subject.generate(folder, [steps - 1]), repeats)
        every = seconds(lambda: subject.generate(folder, range(steps)), repeats)
    latents = sampler.noise(range(batch))
    decode = seconds(lambda: sampler.decode(latents), repeats)
    in_turn = alone + (steps - 1) * len(PROMPTS) * decode
    rows |= {
        "decode of a batch, s": f"{decode:.3g}",
        "trajectory run, final images only, speed over the call's": f"{alone / final:.3f}",
        "trajectory run, every step decoded, speed over the call's": f"{alone / every:.3f}",
        "the same, if each decode waited its turn": f"{alone / in_turn:.3f}",
    }

    store = open_store(folder / "test.zarr")
    final_images = store.images().reshape(images, *store.array.shape[3:])
    texts = [prompt.text for prompt in PROMPTS for _ in range(batch)]
    with peak(rows, "memory of scoring"):
        scoring = seconds(lambda: subject.reward.score(final_images, texts), repeats)
    rows["scores, images/s"] = f"{images / scoring:.3g}"

    scores = subject.reward.score(final_images, texts).reshape(len(PROMPTS), batch)
    data = StepData.from_store(store, scores, steps // 4)
    narf = subject.config.narf.of("pic").model_copy(update={"batch_size": images, "epochs": 1})
    with peak(rows, "memory of the NARF step"):
        narf_began = time.perf_counter()
        finetune_step(
            subject.reward, data, narf, start=None, out=folder / "narf", seed=0, val_data=data
        )
        rows["NARF step, images"] = str(images)
        rows["NARF step with its checkpoint, s"] = f"{time.perf_counter() - narf_began:.3g}"

    with peak(rows, "memory of live search"):
        rows |= search(subject, n, repeats)
    return rows


def search(subject: Subject, n: int, repeats: int) -> Rows:
    """Best-of-N and TTSnap live, at the same number of candidates."""
    reward, sampling = subject.reward, subject.config.sampling
    checks = (Check(sampling.steps // 5, 0.4), Check(sampling.steps // 2, 0.5))
    schedules = {"best-of-n": Schedule(), "ttsnap": Schedule(checks)}
    found: dict[str, SearchResult] = {}

    searcher = Searcher(
        subject.sampler,
        [reward],
        verifiers={check.step: (reward,) for check in checks},
        batch_size=subject.batch,
    )
    costs = searcher.prices("TFLOPs")

    def run(method: str) -> None:
        schedule = schedules[method]
        options = Pruning(schedule=str(schedule)) if schedule.checks else None
        budget = Budget(costs.cost(n, schedule), costs.unit)
        found[method] = searcher.run(PROMPTS[0], method, options, budget=budget)

    taken = {method: seconds(partial(run, method), repeats) for method in schedules}
    best, pruned = found["best-of-n"], found["ttsnap"]
    if {len(best.candidates), len(pruned.candidates)} != {n}:
        raise RuntimeError(f"{len(best.candidates)} and {len(pruned.candidates)} candidates of {n}")
    return {
        "live search, N": str(n),
        "best-of-N, s": f"{taken['best-of-n']:.3g}",
        f"TTSnap of N at {schedules['ttsnap']}, time over best-of-N's": (
            f"{taken['ttsnap'] / taken['best-of-n']:.3f}"
        ),
        "TTSnap of N, TFLOPs over best-of-N's": f"{pruned.spent / best.spent:.3f}",
    }


def compiled(subject: Subject, repeats: int) -> Rows:
    """A step of a batch with `torch.compile` on the denoiser, as `runtime.compile` has it."""
    sampler = subject.sampler
    state = sampler.start(subject.texts.select(torch.tensor([0])), range(subject.batch))
    eager = seconds(lambda: sampler.step(state), repeats)
    compile_denoiser(sampler.denoiser)
    began = time.perf_counter()
    sampler.step(state)
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    first = time.perf_counter() - began
    later = seconds(lambda: sampler.step(state), repeats)
    return {
        "step of a batch, s": f"{eager:.3g}",
        "speed when compiled": f"{eager / later:.3f}",
        "first step when compiled, s": f"{first:.3g}",
    }


@contextmanager
def peak(rows: Rows, name: str) -> Iterator[None]:
    """Note the most memory that a GPU held meanwhile, models included."""
    if not torch.cuda.is_available():
        yield
        return
    torch.cuda.reset_peak_memory_stats()
    yield
    rows[f"{name}, GB"] = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}"


def device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def table(columns: Mapping[str, Rows]) -> str:
    """Markdown, one column for each model; what only one of them has is blank in the others."""
    names = list(dict.fromkeys(name for rows in columns.values() for name in rows))
    lines = [
        f"{device_name()}, PyTorch {torch.__version__}, diffusers {diffusers.__version__}",
        "",
        "| | " + " | ".join(columns) + " |",
        "|---|" + "--:|" * len(columns),
    ]
    for name in names:
        cells = " | ".join(rows.get(name, "") for rows in columns.values())
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="See the top of this file.")
    parser.add_argument("--models", nargs="+", choices=PIPELINES, default=list(PIPELINES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args(arguments)
    quiet_libraries()
    columns: dict[str, Rows] = {}
    for name in asked.models:
        chosen = subject(name, asked.tiny)
        if asked.compile:
            columns[name] = compiled(chosen, asked.repeats)
        else:
            with tempfile.TemporaryDirectory() as folder:
                run = Path(folder, "run")
                columns[name] = measure(chosen, run, 4 * chosen.batch, asked.repeats)
        if asked.out is not None:
            asked.out.write_text(table(columns), encoding="utf-8")
        del chosen
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if asked.out is None:
        print(table(columns), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
