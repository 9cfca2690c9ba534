"""The live search of a run."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PositiveInt

from ttsnap.config._base import Budgets, Settings, Text


class Search(Settings):
    """The search itself, run live on the test prompts."""

    methods: Annotated[list[Text], Field(min_length=1)] = Field(
        ["best-of-n", "ttsnap"],
        description="Methods (`ttsnap methods`) at the same budgets; @preview looks at previews.",
    )
    options: dict[Text, dict[str, Any]] = Field(
        {}, description="Settings of single methods, as `ttsnap methods` lists them."
    )
    reward: str = Field("clip", description="Name of the reward that searches.")
    judge_reward: str | None = Field(
        None,
        description="Name of another reward, held out to judge what was found; null is none.",
    )
    budgets: Budgets = Field([0.016, 0.031], description="Compute per prompt, TFLOPs, increasing.")
    prompts_per_job: PositiveInt = Field(32, description="Prompts per job.")
