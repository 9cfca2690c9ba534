"""Every setting of a run, with its default, unit and meaning; the one source of all of them.

``config/config.yaml`` and ``workflow/schemas/config.schema.json`` are generated from these models
by ``python -m ttsnap.config.generate``. A config file may be partial: what it leaves out takes the
default.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from ttsnap.errors import UserError

ROOT = Path(__file__).parents[2]
DEFAULT_YAML = ROOT / "config/config.yaml"
SCHEMA_JSON = ROOT / "workflow/schemas/config.schema.json"

Split = Literal["train", "val", "test"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Text = Annotated[str, Field(min_length=1)]
StepIndex = Annotated[int, Field(ge=0)]
Keep = Annotated[float, Field(gt=0, le=1)]
Pixels = Annotated[int, Field(gt=0, multiple_of=4)]
Price = Annotated[float, Field(ge=0)]
Budgets = Annotated[list[PositiveFloat], Field(min_length=1)]
Accounting = Literal["corrected", "ttsnap"]
MethodName = Literal[
    "best-of-n",
    "ttsnap",
    "ttsp",
    "random",
    "zero-order",
    "ttsnap+zero-order",
    "rejection",
    "beam",
    "mcts",
    "noise-zero-order",
    "eps-greedy",
    "smc",
]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$")]

HUB_ID = r"\w[\w.-]*/[\w.-]+"
"""Pattern of a hub id, ORG/NAME."""

COMMIT = r"[0-9a-f]{40}"
"""Pattern of what pins a hub id."""

FILE = ".safetensors"
"""Suffix of the only files of weights that are read of models and their LoRAs."""

WIDTH = 92  # of the generated YAML, before indentation
Problem = tuple[tuple[str | int, ...], str]


def is_hub_id(path: str) -> bool:
    """Whether a path is that of a repository, and of nothing on this machine."""
    file = Path(path)
    return bool(re.fullmatch(HUB_ID, path)) and file.suffix != FILE and not file.exists()


class Settings(BaseModel):
    """Base of all sections: immutable, no unknown keys, no conversions ("12" is not 12)."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class Preview(Settings):
    """A tiny autoencoder, such as TAESD, that decodes estimates cheaply."""

    path: Text = Field(description="Local folder, or hub id ORG/NAME, of an AutoencoderTiny.")
    revision: Text | None = Field(None, description="Commit of a hub id, which must have one.")


class GeneratorLora(Settings):
    """A LoRA that is fused into the model, in the format of diffusers or Kohya."""

    path: Text = Field(description="A .safetensors file, a folder with one, or hub id ORG/NAME.")
    revision: Text | None = Field(None, description="Commit of a hub id, which must have one.")
    weight: Text | None = Field(None, description="File in it, which a hub id must have.")
    scale: float = Field(1.0, description="Factor of its update of the weights.")


class Model(Settings):
    """Text-to-image model."""

    family: Literal[
        "auto",
        "stable-diffusion",
        "sdxl",
        "flux",
        "stable-diffusion-3",
        "pixart-sigma",
        "sana",
        "edm",
        "ltx",
        "wan",
    ] = Field(
        "stable-diffusion",
        description="One of `ttsnap models`; auto, as where only a path is given: as files say.",
    )
    path: Text = Field(
        "ttsnap/shapes/weights/generator",
        description="Local folder, .safetensors file, or hub id ORG/NAME.",
    )
    revision: Text | None = Field(None, description="Commit of a hub id, which must have one.")
    components: Text | None = Field(
        None,
        exclude_if=lambda components: components is None,
        description="Of a file: folder, or ORG/NAME@COMMIT, with what the file lacks.",
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "float32",
        description="float32, float16, bfloat16; auto: float32 on a CPU, half precision on a GPU.",
    )
    loras: list[GeneratorLora] = Field(
        [],
        exclude_if=lambda loras: not loras,
        description="LoRAs fused into it, each {path, revision, weight, scale}.",
    )
    preview: Preview | None = Field(
        None, description="Preview decoder, {path, revision}, for the latents of the model."
    )
    vae_tiling: bool = Field(False, description="Decode in tiles: less memory, faint seams.")

    @model_validator(mode="before")
    @classmethod
    def find_family(cls, given: Any) -> Any:
        """Leave the family of a path that is given without one to its files."""
        if isinstance(given, Mapping) and "path" in given:
            return {"family": "auto"} | dict(given)
        return given


class Scheduler(Settings):
    """Noise schedule and solver, from diffusers."""

    name: str = Field(
        "EulerDiscreteScheduler",
        pattern=r"^[A-Za-z0-9]+Scheduler$",
        description="Class name of a diffusers scheduler.",
    )
    options: dict[str, Any] = Field(
        {}, description="Options of the scheduler that replace the model's own."
    )


class NegToMe(Settings):
    """Negative token merging (arXiv 2412.01339): images leave the reference of their group."""

    alpha: float = Field(1.2, ge=0, description="Strength; 0 changes nothing.")
    threshold: Annotated[float, Field(ge=-1, le=1)] = Field(
        0.65, description="Cosine similarity to its best match above which a token is pushed."
    )
    t_start: float = Field(1000, ge=0, description="First timestep, noisiest, of 1000 to 0.")
    t_end: float = Field(900, ge=0, description="Last timestep.")
    where: Literal["up", "all"] = Field(
        "all", description="up: self-attention of a U-Net's up blocks; all: of all blocks."
    )
    min_width: PositiveInt = Field(32, description="Least width of a feature map, tokens.")
    group: Annotated[int, Field(ge=2)] = Field(
        8, description="Consecutive images of a prompt that share a reference."
    )
    reference: int = Field(0, ge=0, description="Which of its group is the reference.")

    def reference_of(self, image: int) -> int:
        """The image of a prompt that is the reference of its ``image``."""
        return image - image % self.group + self.reference


class Sampling(Settings):
    """How the model is sampled."""

    steps: Annotated[int, Field(ge=2)] = Field(
        12, description="Denoising steps; step indices below run from 0 to steps - 1."
    )
    guidance_scale: float = Field(
        1.5, ge=1, description="Classifier-free guidance scale; 1 is none, and half the cost."
    )
    height: Pixels = Field(32, description="Height of an image, pixels.")
    width: Pixels = Field(32, description="Width of an image, pixels.")
    frames: PositiveInt = Field(1, description="Frames of a video; 1 of an image.")
    scored_frames: PositiveInt = Field(
        4, description="Frames of a video that are scored, evenly spaced; their mean counts."
    )
    scheduler: Scheduler = Scheduler(
        options={"timestep_spacing": "linspace", "use_exponential_sigmas": True}
    )
    negtome: NegToMe | None = Field(
        None, description="Negative token merging, for images that differ more; null is none."
    )


def _without_defaults(schema: dict[str, Any]) -> None:
    del schema["required"]
    for key in schema["properties"].values():
        key.pop("default", None)


class SplitSettings(Settings):
    """Prompts [start, stop) of a file, and the trajectories sampled for them."""

    # Splits completes what is left out, split by split: no key is required, none has one default.
    model_config = ConfigDict(json_schema_extra=_without_defaults)

    file: Text = Field("config/prompts/shapes.json", description="JSON file of prompts.")
    start: int = Field(0, ge=0, description="First prompt of the split, counted from 0.")
    stop: PositiveInt = Field(description="One past the last prompt of the split.")
    images: PositiveInt = Field(description="Trajectories (noise seeds) per prompt.")
    steps: list[StepIndex] | None = Field(
        None,
        description="Step indices stored, beside the last, which always is; null stores all.",
    )
    prompts_per_job: PositiveInt = Field(description="Prompts per job, which writes one shard.")

    def stored(self, steps: int) -> list[int]:
        """Step indices stored of trajectories of ``steps`` steps, the last always among them."""
        last = steps - 1
        return list(range(steps)) if self.steps is None else sorted({*self.steps, last})


class Splits(Settings):
    """Rewards learn on train, schedules are chosen on val, everything is reported on test."""

    train: SplitSettings = SplitSettings(
        start=0, stop=3600, images=2, steps=[0, 1, 2, 3, 4, 5, 6, 7], prompts_per_job=600
    )
    val: SplitSettings = SplitSettings(start=4000, stop=4060, images=32, prompts_per_job=30)
    test: SplitSettings = SplitSettings(start=5000, stop=5160, images=24, prompts_per_job=40)

    @model_validator(mode="before")
    @classmethod
    def complete(cls, given: Any) -> Any:
        """Fill what a split leaves out with that split's own defaults."""
        if not isinstance(given, Mapping):
            return given
        defaults = {name: field.default.model_dump() for name, field in cls.model_fields.items()}
        return {
            name: defaults.get(name, {}) | dict(split) if isinstance(split, Mapping) else split
            for name, split in given.items()
        }


class RewardSettings(Settings):
    """A model that scores (image, prompt)."""

    kind: Text = Field(
        "clip",
        description="What `ttsnap rewards` lists, or a class of your own, MODULE:CLASS.",
    )
    path: Text | None = Field(
        None, description="Local folder, or hub id ORG/NAME; null for kinds without a model."
    )
    revision: Text | None = Field(None, description="Commit of a hub id, which must have one.")
    options: dict[str, Any] = Field(
        {}, description="Options of the kind; `ttsnap rewards KIND` lists them."
    )

    @property
    def members(self) -> dict[str, Any]:
        """What an ensemble says about each of its rewards, by name; no other kind has any."""
        named = self.options.get("rewards") if self.kind == "ensemble" else None
        return named if isinstance(named, dict) else {}

    @property
    def kinds(self) -> set[str]:
        """Kinds of models that score: those of an ensemble's rewards, or its own."""
        members = [member for member in self.members.values() if isinstance(member, dict)]
        return {member.get("kind", "clip") for member in members} or {self.kind}


class Lora(Settings):
    """Low-rank adapters, for method lora."""

    rank: PositiveInt = Field(16, description="Rank of the update of each weight matrix.")
    alpha: PositiveFloat = Field(32.0, description="The update is scaled by alpha / rank.")
    targets: Annotated[list[Text], Field(min_length=1)] = Field(
        ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
        description="Names of the linear layers that are adapted.",
    )


class Preference(Settings):
    """Bradley-Terry loss on pairs of one prompt's images, beside the squared error."""

    weight: float = Field(0.0, ge=0, description="Weight of the term; 0 is none.")
    temperature: PositiveFloat = Field(
        0.5,
        description="Difference of rewards, in deviations of the teacher, that is one logit.",
    )


class Narf(Settings):
    """Noise-aware reward finetuning: a student per step learns the final image's reward."""

    steps: Annotated[list[StepIndex], Field(min_length=1)] = Field(
        [0, 1, 2, 3, 4, 5, 6],
        description="Step indices, increasing; trained from the last (cleanest) down.",
    )
    method: Literal["lora", "full"] = Field(
        "lora", description="lora: train adapters; full: train all weights."
    )
    lora: Lora = Lora()
    learning_rate: PositiveFloat = Field(3e-4, description="Peak rate of AdamW.")
    learning_rates: dict[Name, PositiveFloat] = Field(
        {}, description="Rates of single rewards in its place, by name."
    )
    epochs: PositiveInt = Field(2, description="Passes over the training images of a step.")
    batch_size: PositiveInt = Field(100, description="Images per optimiser step.")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay of AdamW.")
    clip_norm: PositiveFloat = Field(5.0, description="Largest norm of the gradient.")
    neighbours: int = Field(
        0, ge=0, description="Stored steps to either side whose images are mixed in."
    )
    preference: Preference = Preference()

    def of(self, reward: str) -> Narf:
        """What this says about finetuning ``reward``."""
        rate = self.learning_rates.get(reward, self.learning_rate)
        return self.model_copy(update={"learning_rate": rate, "learning_rates": {}})


class CheckSettings(Settings):
    """Keep the best share of the candidates alive at a step."""

    step: StepIndex = Field(description="Step index.")
    keep: Keep = Field(description="Share kept, in (0, 1].")


class Simulation(Settings):
    """Search strategies replayed on the reward tensors of the test split."""

    checks: list[CheckSettings] | None = Field(
        None,
        min_length=1,
        description="Pruning schedule, a list of {step, keep}; null plans one per budget on val.",
    )
    budgets: Annotated[list[PositiveFloat], Field(min_length=2)] = Field(
        [0.011, 0.016, 0.021, 0.026, 0.031, 0.036, 0.041, 0.046, 0.052, 0.062],
        description="Compute per prompt, TFLOPs, increasing.",
    )
    draws: PositiveInt = Field(1024, description="Random subsets of a prompt's trajectories.")
    accounting: Accounting = Field(
        "corrected",
        description="corrected: a check at step s pays s + 1 evaluations; ttsnap: as published.",
    )


class Costs(Settings):
    """Prices of the cost model; what is null, or a reward that is missing, is measured."""

    unit: Literal["TFLOPs", "seconds"] = Field(
        "TFLOPs",
        description="TFLOPs, counted; or seconds, on this device at runtime.batch_size.",
    )
    denoise: PositiveFloat | None = Field(
        None, description="One denoiser evaluation with its guidance."
    )
    decode: Price | None = Field(None, description="Latents of one candidate to pixels.")
    preview: Price | None = Field(None, description="The same by model.preview, for checks.")
    rewards: dict[Name, Price] = Field(
        {}, description="Scoring one image, by the name of the reward."
    )

    def given(self, reward: str, *, preview: bool) -> dict[str, float | None]:
        """Prices of searching with ``reward``: denoise, decode, score, and ``preview`` if asked."""
        given = {
            "denoise": self.denoise,
            "decode": self.decode,
            "score": self.rewards.get(reward),
        }
        return given | {"preview": self.preview} if preview else given


class Search(Settings):
    """The search itself, run live on the test prompts."""

    methods: Annotated[list[MethodName], Field(min_length=1)] = Field(
        ["best-of-n", "ttsnap"],
        description="Methods to compare at the same budgets; `ttsnap methods` lists them.",
    )
    options: dict[MethodName, dict[str, Any]] = Field(
        {}, description="Settings of single methods, as `ttsnap methods` lists them."
    )
    reward: str = Field("clip", description="Name of the reward that searches.")
    judge_reward: str | None = Field(
        None,
        description="Name of another reward, held out to judge what was found; null is none.",
    )
    budgets: Budgets = Field([0.021, 0.041], description="Compute per prompt, TFLOPs, increasing.")
    prompts_per_job: PositiveInt = Field(80, description="Prompts per job.")


class Report(Settings):
    """What the report shows."""

    prompts: PositiveInt = Field(3, description="Test prompts shown as picture grids.")
    candidates: PositiveInt = Field(8, description="Candidates shown for each of them.")


class Runtime(Settings):
    """Site matters that do not change results; a change re-runs nothing."""

    device: Device = Field(
        "cpu",
        description="cpu, mps, cuda, cuda:1, …; auto, as where model.path is given: a GPU if any.",
    )
    batch_size: PositiveInt = Field(64, description="Candidates denoised or scored at once.")
    processes: PositiveInt = Field(
        1, description="Processes that finetune a reward together, each on a GPU of its own."
    )
    train_batch: PositiveInt | None = Field(
        None,
        description="Images per forward pass of finetuning; null: a process's share of a batch.",
    )
    offload: Literal["none", "model", "sequential"] = Field(
        "none",
        description="What waits in main memory: none; model: idle models; sequential: idle layers.",
    )
    vae_slicing: bool = Field(False, description="Decode one image at a time: less memory.")
    release_text_encoders: bool = Field(
        False, description="Keep text encoders in main memory but while they encode."
    )
    attention: Text | None = Field(
        None, description="Attention backend of diffusers, such as flash; null is torch's."
    )
    compile: bool = Field(False, description="Compile the denoiser with torch.compile.")


class Config(Settings):
    """Settings of a run of TTSnap."""

    run: Name = Field("shapes", description="Name of the run, a folder of results.")
    results: Annotated[str, Field(min_length=1, pattern="^[^:]*$")] = Field(
        "results", description="Folder of all runs."
    )
    stores: Text | None = Field(
        None,
        description="Folder or URL, as s3://…, for all trajectory stores; null: the run's own.",
    )
    seed: int = Field(0, ge=0, description="Root of every random number of the run.")
    model: Model = Model()
    sampling: Sampling = Sampling()
    splits: Splits = Splits()
    rewards: Annotated[dict[Name, RewardSettings], Field(min_length=1)] = Field(
        {"clip": RewardSettings(path="ttsnap/shapes/weights/clip")},
        description="Reward models by the names used in results.",
    )
    narf: Narf = Narf()
    costs: Costs = Costs()
    simulation: Simulation = Simulation()
    search: Search = Search()
    judge: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = Field(
        "ttsnap.shapes.oracle:judge_images",
        description="MODULE:FUNCTION that judges live results by other means than the reward.",
    )
    report: Report = Report()
    runtime: Runtime = Runtime()

    @model_validator(mode="before")
    @classmethod
    def use_any_device(cls, given: Any) -> Any:
        """Run a model of one's own where there is a GPU, if nothing else is said."""
        if isinstance(given, Mapping) and isinstance(model := given.get("model"), Mapping):
            runtime = given.get("runtime", {})
            if "path" in model and isinstance(runtime, Mapping):
                return {**given, "runtime": {"device": "auto"} | dict(runtime)}
        return given

    @field_validator("rewards")
    @classmethod
    def fill_in_members(cls, rewards: dict[str, RewardSettings]) -> dict[str, RewardSettings]:
        """Give ensembles the settings of the rewards they name, so that each stands for itself."""
        return {name: _filled_in(reward, rewards) for name, reward in rewards.items()}

    def store(self, split: str) -> str:
        """Folder or URL of the trajectory store of a split."""
        folder = f"{self.results}/{self.run}/trajectories"
        if self.stores is not None:
            folder = f"{self.stores.rstrip('/')}/{self.run}"
        return f"{folder}/{split}.zarr"

    @property
    def pipeline_rewards(self) -> list[str]:
        """Names of the rewards that stages score, finetune and plan with.

        The reward that judges is held out: no checkpoint is trained for it, nothing planned by it.
        """
        return [name for name in self.rewards if name != self.search.judge_reward]

    @model_validator(mode="after")
    def cross_check(self) -> Config:
        """Refuse values that are impossible together, each with its key path.

        Raises:
            ValidationError: with one entry per problem.
        """
        errors = [
            InitErrorDetails(
                type=PydanticCustomError("impossible", "{text}", {"text": text}),
                loc=path,
                input=None,
            )
            for path, text in _problems(self)
        ]
        if errors:
            raise ValidationError.from_exception_data("Config", errors)
        return self


def _filled_in(reward: RewardSettings, others: dict[str, RewardSettings]) -> RewardSettings:
    members = reward.members
    for name, given in members.items():
        member = {"weight": given} if isinstance(given, int | float) else given
        other = others.get(name)
        if other is not None and other.kind != "ensemble" and isinstance(member, dict):
            members = members | {name: other.model_dump() | member}
    if not members:
        return reward
    return reward.model_copy(update={"options": reward.options | {"rewards": members}})


def _problems(config: Config) -> Iterator[Problem]:
    yield from _unpinned(config)
    yield from _negtome_problems(config)
    device, processes = config.runtime.device, config.runtime.processes
    if processes > 1 and device not in ("auto", "cpu", "cuda"):
        text = f"{device} is for one process, not {processes}; expected auto, cuda or cpu"
        yield ("runtime", "device"), text
    for name, reward in config.rewards.items():
        single = [key for key, other in config.rewards.items() if other.kind != "ensemble"]
        for member in reward.members:
            if member not in single:
                text = f"is no reward to build on, which are {', '.join(single) or 'none here'}"
                yield ("rewards", name, "options", "rewards", member), text
    yield from _split_problems(config)
    yield from _step_problems(config)
    for place, budgets in [
        (("simulation", "budgets"), config.simulation.budgets),
        (("search", "budgets"), config.search.budgets),
    ]:
        for index, text in _disorder(budgets):
            yield (*place, index), text
    for index, method in enumerate(config.search.methods):
        if method in config.search.methods[:index]:
            yield ("search", "methods", index), f"{method} is listed twice"
    if config.costs.preview is not None and config.model.preview is None:
        yield ("costs", "preview"), "is the price of a decoder that model.preview does not name"
    named = [(("search", "reward"), config.search.reward)]
    named += [(("costs", "rewards"), name) for name in config.costs.rewards]
    named += [(("narf", "learning_rates"), name) for name in config.narf.learning_rates]
    if judge := config.search.judge_reward:
        named.append((("search", "judge_reward"), judge))
        if judge == config.search.reward:
            yield ("search", "judge_reward"), f"{judge} is the reward that searches; name another"
    for place, name in named:
        if name not in config.rewards:
            yield place, f"{name} is none of the rewards ({', '.join(config.rewards)})"


def _unpinned(config: Config) -> Iterator[Problem]:
    """Hub ids without a commit: what a branch or a tag names can change."""
    model = config.model
    sources: dict[tuple[str | int, ...], Any] = {("model",): model}
    if model.preview is not None:
        sources["model", "preview"] = model.preview
    sources |= {("model", "loras", index): lora for index, lora in enumerate(model.loras)}
    sources |= {("rewards", name): reward for name, reward in config.rewards.items()}
    repository, _, commit = (model.components or "").partition("@")
    if is_hub_id(repository) and not re.fullmatch(COMMIT, commit):
        text = f"{model.components} must name a folder that exists, or end with @ and its commit"
        yield ("model", "components"), text
    for index, lora in enumerate(model.loras):
        if lora.weight is None and is_hub_id(lora.path):
            yield ("model", "loras", index, "weight"), f"must name the file in {lora.path}"
    for place, source in sources.items():
        if source.path is None or not is_hub_id(source.path):
            continue
        if not re.fullmatch(COMMIT, source.revision or ""):
            text = (
                f"must be the commit of {source.path}, which is no local folder but a hub id; "
                f"expected 40 hexadecimal digits, as https://huggingface.co/{source.path}"
                f"/commits/main lists them, not {source.revision or 'nothing'}"
            )
            yield (*place, "revision"), text


def _negtome_problems(config: Config) -> Iterator[Problem]:
    settings, place = config.sampling.negtome, ("sampling", "negtome")
    if settings is None:
        return
    if settings.t_end > settings.t_start:
        text = f"{settings.t_end:g} is above t_start {settings.t_start:g}; timesteps fall"
        yield (*place, "t_end"), text
    if settings.reference >= settings.group:
        text = f"{settings.reference} is none of a group of {settings.group}, counted from 0"
        yield (*place, "reference"), text
    if config.runtime.compile:
        yield ("runtime", "compile"), "cannot be combined with sampling.negtome"
    whole = f"sampling.negtome.group, {settings.group}"
    if config.runtime.batch_size < settings.group:
        text = f"{config.runtime.batch_size} is less than {whole}, whose images run together"
        yield ("runtime", "batch_size"), text
    for name, split in _splits(config):
        if split.images % settings.group:
            yield ("splits", name, "images"), f"{split.images} is no multiple of {whole}"


def _splits(config: Config) -> list[tuple[Split, SplitSettings]]:
    splits = config.splits
    return [("train", splits.train), ("val", splits.val), ("test", splits.test)]


def _split_problems(config: Config) -> Iterator[Problem]:
    for name, split in _splits(config):
        if split.stop <= split.start:
            yield ("splits", name, "stop"), f"{split.stop} is not above start {split.start}"
    for (name, split), (other_name, other) in combinations(_splits(config), 2):
        same_file = os.path.normpath(split.file) == os.path.normpath(other.file)
        if same_file and split.start < other.stop and other.start < split.stop:
            text = (
                f"prompts {other.start} to {other.stop} overlap with those of splits.{name}, "
                f"{split.start} to {split.stop} of the same file"
            )
            yield ("splits", other_name), text


def _step_problems(config: Config) -> Iterator[Problem]:
    """Step indices that are out of range or order, or needed but not stored."""
    last = config.sampling.steps - 1
    lists = [(("splits", name, "steps"), split.steps or []) for name, split in _splits(config)]
    for place, steps in [*lists, (("narf", "steps"), config.narf.steps)]:
        for index, step in enumerate(steps):
            if step > last:
                yield (*place, index), f"{step} is beyond the last step {last}"
        for index, text in _disorder(steps):
            yield (*place, index), text

    checks = [check.step for check in config.simulation.checks or []]
    for index, step in enumerate(checks):
        if step >= last:
            text = f"{step} is beyond the last useful step {last - 1} of {last + 1} steps"
            yield ("simulation", "checks", index, "step"), text
    for index, text in _disorder(checks):
        yield ("simulation", "checks", index, "step"), text

    readers: dict[Split, tuple[str, list[int]]] = {
        "train": ("narf.steps", config.narf.steps),
        "val": ("narf.steps", config.narf.steps),
        "test": ("simulation.checks", checks),
    }
    for name, split in _splits(config):
        reader, wanted = readers[name]
        stored = range(last) if split.steps is None else split.steps
        if lacking := sorted(step for step in {*wanted} - {*stored} if step < last):
            text = f"lacks {', '.join(map(str, lacking))}, needed by {reader}"
            yield ("splits", name, "steps"), text


def _disorder(values: Sequence[float]) -> Iterator[tuple[int, str]]:
    for index, (before, after) in enumerate(pairwise(values), start=1):
        if after <= before:
            yield index, f"{after:g} does not follow {before:g}; the values must increase"


def load_config(source: Mapping[str, Any] | str | Path) -> Config:
    """Read a config file, or a mapping such as Snakemake's merged ``config``.

    Raises:
        UserError: one line per problem: the file (``config`` for a mapping), the key's path, why.
    """
    if isinstance(source, Mapping):
        label, given = "config", dict(source)
    else:
        label, given = str(source), _read_yaml(Path(source))
    try:
        return Config.model_validate(given)
    except ValidationError as error:
        lines = [f"{label}: {explain(detail)}" for detail in error.errors()]
        raise UserError("\n".join(lines)) from None


def typed(value: Any) -> Any:
    """What was given as ``--config KEY={…}``: Snakemake leaves numbers in there as text."""
    match value:
        case Mapping():
            return {key: typed(item) for key, item in value.items()}
        case list():
            return [typed(item) for item in value]
        case str():
            return yaml.safe_load(value)
    return value


def _read_yaml(path: Path) -> Any:
    try:
        text = path.read_bytes()
        # JSON's 5e-7 is no number to YAML.
        given = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{mark.line + 1}:{mark.column + 1}" if mark else "?"
        raise UserError(f"{path}:{place}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict | None):
        raise UserError(f"{path}: expected sections of settings, not a {type(given).__name__}")
    return given or {}


def explain(error: ErrorDetails, root: type[Settings] = Config) -> str:
    """One line for a pydantic error about ``root``: the key's path and what was expected there."""
    loc = [part for part in error["loc"] if part != "[key]"]
    value = json.dumps(error["input"], default=str, ensure_ascii=False)
    value = value if len(value) <= 60 else value[:57] + "…"
    match error["type"]:
        case "extra_forbidden":
            text = "unknown key" + _suggest(loc, root)
        case "missing":
            text = "is missing"
        case "model_type":
            text = f"should be a section of settings, not {value}"
        case "impossible":
            text = error["msg"]
        case "float_type" if re.fullmatch(r'"[-+]?\d+e[-+]?\d+"', value, re.IGNORECASE):
            text = f"should be a number, not the text {value}; YAML wants it like 1.0e-3"
        case _:
            words = error["msg"].removeprefix("Input ").removeprefix("String ")
            text = f"{words[0].lower()}{words[1:]}, not {value}"
    return f"{'.'.join(map(str, loc))}: {text}"


def _suggest(loc: list[str | int], root: type[Settings]) -> str:
    """The nearest known key to the unknown one at ``loc`` in ``root``."""
    section: Any = root
    for part in loc[:-1]:
        if type(None) in get_args(section):
            section = get_args(section)[0]  # of what may be null
        if isinstance(section, type) and issubclass(section, Settings):
            section = section.model_fields[str(part)].annotation
        else:
            section = get_args(section)[-1]  # the items of a list or a dict
    near = difflib.get_close_matches(str(loc[-1]), section.model_fields, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def to_yaml(config: Config) -> str:
    """``config`` as commented YAML that :func:`load_config` reads back unchanged."""
    lines = [
        "# Settings of a run. The file may be shortened: what is left out takes the default.",
        "# Defaults are those of ttsnap/config; `python -m ttsnap.config.generate` writes this.",
        "",
        *_yaml_lines(config, seen=set()),
    ]
    return "\n".join(lines) + "\n"


def _yaml_lines(section: Settings, seen: set[type[Settings]]) -> Iterator[str]:
    """The keys of a section; a model is described where it first occurs in the file."""
    described = type(section) in seen
    seen.add(type(section))
    fields = {
        name: (getattr(section, name), field) for name, field in type(section).model_fields.items()
    }
    short = [
        len(text)
        for name, (value, field) in fields.items()
        if _nested(value, seen) is None
        and len(text := f"{name}: {_flow(value)}") + len(field.description or "") <= WIDTH - 4
    ]
    after_block = False
    for name, (value, field) in fields.items():
        nested = _nested(value, seen)
        if isinstance(section, Config) and (after_block or nested is not None):
            yield ""
        after_block = nested is not None
        if nested is None:
            text = f"{name}: {_flow(value)}"
            beside = f"{text:{max(short, default=0)}}  # {field.description}"
            if described:
                yield text
            elif len(beside) <= WIDTH:
                yield beside
            else:
                yield f"# {field.description}"
                yield text
            continue
        comment = field.description
        if isinstance(value, Settings):
            comment = None if type(value) in seen else type(value).__doc__
        if comment:
            yield f"# {comment}"
        yield f"{name}:"
        yield from _indent(nested)


def _indent(lines: Iterable[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)


def _nested(value: Any, seen: set[type[Settings]]) -> Iterator[str] | None:
    """The lines below the key of a section, or of a list or dict of sections."""
    match value:
        case Settings():
            return _yaml_lines(value, seen)
        case [Settings(), *_]:
            return (f"- {_flow(item.model_dump())}" for item in value)
        case dict() if any(isinstance(item, Settings) for item in value.values()):
            return (
                line
                for key, item in value.items()
                for line in (f"{_flow(key)}:", *_indent(_yaml_lines(item, seen)))
            )
    return None


def _flow(value: Any) -> str:
    """A value on one line."""
    text = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6
    )
    return text.removesuffix("...\n").rstrip("\n")


def default_yaml() -> str:
    """The commented ``config/config.yaml`` of the embedded default."""
    return to_yaml(Config())


def json_schema() -> dict[str, Any]:
    """The JSON schema of a config file."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return schema | Config.model_json_schema()


if __name__ == "__main__":
    DEFAULT_YAML.write_text(default_yaml())
    SCHEMA_JSON.parent.mkdir(parents=True, exist_ok=True)
    SCHEMA_JSON.write_text(json.dumps(json_schema(), indent=2) + "\n")
