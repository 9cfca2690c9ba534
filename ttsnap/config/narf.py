"""Noise-aware reward finetuning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from ttsnap.config._base import Name, Settings, StepIndex, Text


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


TRAINED = [2, 3, 4, 5, 6]
"""Steps of the embedded world that are worth a student."""

CAREFUL = {"learning_rate": 3e-4, "epochs": 2, "batch_size": 100}
"""What replaces defaults that suit the small embedded reward, for rewards of one's own."""


class Narf(Settings):
    """Noise-aware reward finetuning: a student per step learns the final image's reward."""

    steps: Annotated[list[StepIndex], Field(min_length=1)] = Field(
        TRAINED,
        description="Step indices, of other steps the first 60 %; trained from the last down.",
    )
    method: Literal["lora", "full"] = Field(
        "lora", description="lora: train adapters; full: train all weights."
    )
    lora: Lora = Lora()
    learning_rate: PositiveFloat = Field(
        1.2e-3, description="Peak rate of AdamW; 3e-4 for rewards of your own."
    )
    learning_rates: dict[Name, PositiveFloat] = Field(
        {}, description="Rates of single rewards in its place, by name."
    )
    epochs: PositiveInt = Field(
        4, description="Passes over the training images of a step, at most; 2 for your own."
    )
    patience: PositiveInt = Field(
        2, description="Epochs without a better tau on val after which a step ends."
    )
    batch_size: PositiveInt = Field(
        25, description="Images per optimiser step; 100 for rewards of your own."
    )
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
