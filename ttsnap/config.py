"""Every setting of a run, with its default, unit and meaning; the one source of all of them.

``config/config.yaml`` and ``workflow/schemas/config.schema.json`` are generated from these models.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

Split = Literal["train", "val", "test"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
StepIndex = Annotated[int, Field(ge=0)]
Keep = Annotated[float, Field(gt=0, le=1)]


class Settings(BaseModel):
    """Base of all sections: immutable, and no key that is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Scheduler(Settings):
    name: str = Field("DDIMScheduler", description="Class name of a diffusers scheduler.")
    options: dict[str, Any] = Field({}, description="Options that replace the model's own.")


class Model(Settings):
    """Text-to-image model."""

    family: Literal["stable-diffusion"] = Field("stable-diffusion", description="Kind of pipeline.")
    path: str = Field("ttsnap/shapes/weights/generator", description="Local folder or hub id.")
    revision: str | None = Field(None, description="Commit of a hub id; required for one.")
    dtype: Literal["float32", "float16", "bfloat16"] = Field("float32", description="Precision.")


class Sampling(Settings):
    """How the model is sampled."""

    steps: PositiveInt = Field(12, description="Denoising steps.")
    guidance_scale: float = Field(1.0, ge=1, description="Classifier-free guidance; 1 is none.")
    height: PositiveInt = Field(32, description="Pixels.")
    width: PositiveInt = Field(32, description="Pixels.")
    scheduler: Scheduler = Scheduler()


class SplitSettings(Settings):
    file: str = Field("config/prompts/shapes.json", description="JSON file of prompts.")
    start: int = Field(0, ge=0, description="First prompt of the file that belongs to the split.")
    stop: PositiveInt = Field(..., description="One past the last.")
    images: PositiveInt = Field(..., description="Trajectories (noise seeds) per prompt.")
    steps: list[StepIndex] | None = Field(
        None, description="Step indices whose Tweedie estimates are stored; null stores all."
    )
    prompts_per_job: PositiveInt = Field(..., description="Prompts per job, block and shard.")


class Splits(Settings):
    """Rewards learn on train, schedules are chosen on val, everything is reported on test."""

    train: SplitSettings = ...
    val: SplitSettings = ...
    test: SplitSettings = ...


class RewardSettings(Settings):
    kind: Literal["clip"] = Field("clip", description="clip: PickScore-shaped CLIP model.")
    path: str = Field(..., description="Local folder or hub id.")
    revision: str | None = Field(None, description="Commit of a hub id; required for one.")


class Lora(Settings):
    rank: PositiveInt = 16
    alpha: PositiveFloat = 32.0
    targets: list[str] = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


class Preference(Settings):
    weight: float = Field(0.0, ge=0, description="Weight of the Bradley-Terry term; 0 is none.")
    temperature: PositiveFloat = 0.5


class Narf(Settings):
    """Noise-aware reward finetuning: a student per step learns the final image's reward."""

    steps: list[StepIndex] = Field(..., description="Step indices, cleanest last; trained from there down.")
    method: Literal["lora", "full"] = "lora"
    lora: Lora = Lora()
    learning_rate: PositiveFloat = 1e-3
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 100
    weight_decay: float = Field(0.01, ge=0)
    clip_norm: PositiveFloat = 5.0
    neighbours: int = Field(0, ge=0, description="Steps to either side whose images are mixed in.")
    preference: Preference = Preference()


class CheckSettings(Settings):
    step: StepIndex
    keep: Keep


class Simulation(Settings):
    checks: list[CheckSettings] = ...
    budgets: list[PositiveFloat] = Field(..., description="TFLOPs per prompt.")
    draws: PositiveInt = Field(400, description="Random subsets of the pool per budget.")
    accounting: Literal["corrected", "ttsnap"] = "corrected"


class Search(Settings):
    methods: list[Literal["best-of-n", "ttsnap"]] = ["best-of-n", "ttsnap"]
    reward: str = Field(..., description="Name of the reward that searches.")
    budgets: list[PositiveFloat] = Field(..., description="TFLOPs per prompt.")
    prompts_per_job: PositiveInt = 50


class Report(Settings):
    prompts: PositiveInt = Field(3, description="Test prompts shown as picture grids.")
    candidates: PositiveInt = Field(8, description="Candidates shown for each.")


class Runtime(Settings):
    """Site matters that do not change results; a change re-runs nothing."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, …")
    batch_size: PositiveInt = Field(64, description="Candidates denoised at once.")


class Config(Settings):
    run: Name = "shapes"
    results: str = "results"
    seed: int = Field(0, ge=0, description="Root of every random number of the run.")
    model: Model = Model()
    sampling: Sampling = Sampling()
    splits: Splits = ...
    rewards: dict[Name, RewardSettings] = ...
    narf: Narf = ...
    simulation: Simulation = ...
    search: Search = ...
    report: Report = Report()
    runtime: Runtime = Runtime()
