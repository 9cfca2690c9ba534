"""Rewards by their names, and ensembles of them."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ttsnap.config._base import Settings, Source, Text


class RewardSettings(Settings):
    """A model that scores (image, prompt)."""

    kind: Text = Field(
        "clip",
        description="What `ttsnap rewards` lists, or a class of your own, MODULE:CLASS.",
    )
    path: Source | None = Field(
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


def filled_in(reward: RewardSettings, others: dict[str, RewardSettings]) -> RewardSettings:
    """``reward`` with the settings of those of ``others`` that it sums, if it is an ensemble."""
    members = reward.members
    for name, given in members.items():
        member = {"weight": given} if isinstance(given, int | float) else given
        other = others.get(name)
        if other is not None and other.kind != "ensemble" and isinstance(member, dict):
            members = members | {name: other.model_dump() | member}
    if not members:
        return reward
    return reward.model_copy(update={"options": reward.options | {"rewards": members}})
