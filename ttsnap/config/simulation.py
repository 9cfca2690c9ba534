"""Simulated searches, and the prices of what they do."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from ttsnap.config._base import Accounting, Keep, Name, Price, Settings, StepIndex


class CheckSettings(Settings):
    """Keep the best share of the candidates alive at a step."""

    step: StepIndex = Field(description="Step index.")
    keep: Keep = Field(description="Share kept, in (0, 1].")


class Draft(Settings):
    """A cheap run from a candidate's noise, by which to tell whether it is worth a whole one."""

    steps: PositiveInt = Field(description="Denoising steps of a draft.")
    guided: bool = Field(
        False, description="Whether drafts pay for classifier-free guidance, if the model has any."
    )


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
