"""All sections of a run together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from ttsnap.config._base import Name, Settings, Text
from ttsnap.config.checks import problems
from ttsnap.config.model import Model
from ttsnap.config.narf import CAREFUL, Narf
from ttsnap.config.report import Report
from ttsnap.config.rewards import RewardSettings, filled_in
from ttsnap.config.runtime import Runtime
from ttsnap.config.sampling import Sampling, early
from ttsnap.config.search import Search
from ttsnap.config.simulation import Costs, Draft, Simulation
from ttsnap.config.splits import Splits


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
    draft: Draft | None = Field(
        None,
        description="Cheap runs that plans may look at, {steps: 4, guided: false}; null: none.",
    )
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
    def follow_steps(cls, given: Any) -> Any:
        """Derive the steps that are stored and that NARF trains, where they are not given."""
        if not isinstance(given, Mapping):
            return given
        sampling = given.get("sampling")
        if isinstance(sampling, Mapping):
            steps = sampling.get("steps")
        else:
            steps = getattr(sampling, "steps", None)
        if not isinstance(steps, int) or steps < 1:
            return given  # as by default, or refused where sampling is read
        given = _completed(given, ["narf", "steps"], early(steps))
        given = _completed(given, ["splits", "train", "steps"], early(steps, 1))
        for split in ("val", "test"):
            given = _completed(given, ["splits", split, "steps"], None)
        return given

    @model_validator(mode="before")
    @classmethod
    def finetune_with_care(cls, given: Any) -> Any:
        """Train rewards of one's own slowly, where nothing else is said."""
        if isinstance(given, Mapping) and "rewards" in given:
            for name, value in CAREFUL.items():
                given = _completed(given, ["narf", name], value)
        return given

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
        return {name: filled_in(reward, rewards) for name, reward in rewards.items()}

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
            for path, text in problems(self)
        ]
        if errors:
            raise ValidationError.from_exception_data("Config", errors)
        return self


def _completed(given: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """``given`` with ``value`` at ``path``, unless something is there or on the way to it."""
    key, *deeper = path
    inner = given.get(key, {} if deeper else value)
    if deeper and isinstance(inner, Mapping):
        inner = _completed(inner, deeper, value)
    return {**given, key: inner}
