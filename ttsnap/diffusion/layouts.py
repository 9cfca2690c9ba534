"""The folder in diffusers layout that has what the model in a single file lacks."""

from __future__ import annotations

from pathlib import Path

from ttsnap import config, hub
from ttsnap.config import FILE
from ttsnap.diffusion.checkpoints import default_components
from ttsnap.diffusion.sources import TEXTS, check_pinned, lacking, split
from ttsnap.errors import UserError


def layout_of(model: config.Model) -> Path:
    """The folder in diffusers layout with what the model in a file lacks.

    That of ``model.components``, fetched if need be, or of what the cache has for its kind.

    Raises:
        UserError: there is none.
    """
    if model.components is not None:
        path, revision = split(model.components)
        if Path(path).is_dir():
            return Path(path)
        check_pinned(path, revision, "model.components")
        patterns = [*TEXTS, *(f"{name}/*{FILE}" for name in lacking(model.path, model.components))]
        return hub.snapshot(path, str(revision), patterns, "model.components")
    repository = default_components(Path(model.path))
    commit = repository and hub.cached_commit(repository)
    if not repository or not commit:
        hint = f", such as {repository}@COMMIT" if repository else ""
        raise UserError(
            f"model.components: {model.path} has neither configs nor tokenizers; name a folder in "
            f"diffusers layout that has, or ORG/NAME@COMMIT{hint}"
        )
    return hub.snapshot(repository, commit, [*TEXTS], "model.components")
