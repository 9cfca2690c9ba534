"""The model hub: what it answers, the newest commit of a repository, and single files of it.

Files lie in the cache of huggingface_hub (``HF_HOME``), where diffusers and transformers look, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ttsnap.errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import CachedRevisionInfo

T = TypeVar("T")


class Unreachable(UserError):
    """The hub gives no answer; what lies in the cache may do in its place."""


def asked(place: str, repository: str, ask: Callable[[], T]) -> T:
    """The hub's answer about a repository.

    Args:
        place: what wants to know, for errors.
        repository: ORG/NAME.
        ask: raises what huggingface_hub raises.

    Raises:
        Unreachable: it gives none.
        UserError: the repository or the commit is not there, or not for everyone.
    """
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"{constants.ENDPOINT}/{repository}"
    try:
        return ask()
    except GatedRepoError:
        reason = (
            f"gated: accept its licence at {page}, make a token at {constants.ENDPOINT}"
            "/settings/tokens, and set HF_TOKEN"
        )
    except RevisionNotFoundError:
        reason = f"no such commit in {page}"
    except RepositoryNotFoundError:
        reason = f"no such repository as {page}, or a private one: set HF_TOKEN"
    except RemoteEntryNotFoundError as error:
        reason = f"no such file in {page}: {str(error).splitlines()[0]}"
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx2.HTTPError, OSError) as error:
        reason = f"cannot be fetched from {constants.ENDPOINT}: {str(error).splitlines()[0]}"
        raise Unreachable(f"{place}: {reason}") from None
    raise UserError(f"{place}: {reason}")


def newest_commit(repository: str, revision: str | None = None) -> tuple[str, str]:
    """The commit that a branch or a tag of a repository names now, and where that was learnt.

    Args:
        repository: ORG/NAME.
        revision: branch or tag; None for the main branch.

    Returns:
        40 hexadecimal digits, and ``hub``, or ``cache`` where the hub cannot be asked.

    Raises:
        UserError: neither knows one.
    """
    from huggingface_hub import HfApi

    ask = partial(HfApi().model_info, repository, revision=revision)
    try:
        return str(asked(repository, repository, ask).sha), "hub"
    except Unreachable as error:
        found = cached_commit(repository, revision)
        if found is None:
            raise UserError(
                f"{error}; nor is it in the cache: fetch it where there is a network, or name a "
                "local folder"
            ) from None
        return found, "cache"


def cached_commit(repository: str, revision: str | None = None) -> str | None:
    """The newest commit, of a branch or a tag if one is named, of which there are files here."""
    commits = [one for one in _cached(repository) if revision in (None, *one.refs)]
    # What the hub last called main is newer than a commit that was asked for by its name.
    newest = max(commits, key=lambda one: ("main" in one.refs, one.last_modified), default=None)
    return None if newest is None else newest.commit_hash


def is_begun(repository: str) -> bool:
    """Whether the cache has anything of a repository; nothing else in it is looked at."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    name = repo_folder_name(repo_id=repository, repo_type="model")
    return Path(constants.HF_HUB_CACHE, name).is_dir()


def _cached(repository: str) -> list[CachedRevisionInfo]:
    """The commits of a repository of which there are files in the cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        kept = scan_cache_dir().repos
    except CacheNotFound:
        return []
    return [one for repo in kept if repo.repo_id == repository for one in repo.revisions]


def files_of(repository: str, revision: str) -> list[str]:
    """Names of the files of a commit; where the hub cannot be asked, of those in the cache.

    Raises:
        UserError: there is no such commit.
    """
    from huggingface_hub import HfApi

    ask = partial(HfApi().list_repo_files, repository, revision=revision)
    try:
        return asked(f"{repository}@{revision[:8]}", repository, ask)
    except Unreachable:
        for one in _cached(repository):
            if one.commit_hash == revision:
                paths = [file.file_path.relative_to(one.snapshot_path) for file in one.files]
                return [path.as_posix() for path in paths]
        raise


def download(repository: str, revision: str, name: str, place: str) -> Path:
    """A file of a commit, from the cache or else from the hub.

    Raises:
        UserError: it cannot be had; the message begins with ``place``.
    """
    from huggingface_hub import hf_hub_download

    return Path(
        asked(
            f"{place}: {repository}@{revision[:8]}",
            repository,
            lambda: hf_hub_download(repository, name, revision=revision),
        )
    )


def snapshot(repository: str, revision: str, patterns: Sequence[str], place: str) -> Path:
    """A folder with the files of a commit that fit patterns, from the cache or else from the hub.

    Raises:
        UserError: they cannot be had; the message begins with ``place``.
    """
    from huggingface_hub import snapshot_download

    return Path(
        asked(
            f"{place}: {repository}@{revision[:8]}",
            repository,
            lambda: snapshot_download(repository, revision=revision, allow_patterns=list(patterns)),
        )
    )
