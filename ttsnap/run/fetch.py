"""What a run needs from the hub: fetched ahead of time, proven, and found again without a network.

Files lie in the cache of huggingface_hub (``HF_HOME``), where diffusers and transformers look for
them. Jobs run with ``HF_HUB_OFFLINE=1``, so that none starts a download on a node without internet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ttsnap.config import COMMIT, HUB_ID, Config, RewardSettings
from ttsnap.errors import UserError

T = TypeVar("T")

ON_HUB = re.compile(r"(\w[\w.-]*/[\w.-]+)@(\w+)(?::(.+))?")

TEXTS = ("*.json", "*.txt", "*.model")
WEIGHTS = {
    "hpsv2": "HPS_v2.1_compressed.pt",
    "image-reward": "ImageReward.pt",
    "image-reward-package": "ImageReward.pt",
}
"""Kind -> file of the weights by default, where that is no model of transformers."""


@dataclass(frozen=True)
class Source:
    """A repository of the hub, or the part of it that is needed.

    Attributes:
        place: setting that names it.
        repository: ORG/NAME.
        revision: commit.
        files: patterns of the files; none for a whole diffusers pipeline.
    """

    place: str
    repository: str
    revision: str
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.place}: {self.repository}@{self.revision[:8]}"


@dataclass(frozen=True)
class Fetched:
    """What lies on this machine now.

    Attributes:
        source: where it is from.
        licence: as the repository names it.
        files: how many.
        gigabytes: of 10⁹ bytes, together.
    """

    source: Source
    licence: str
    files: int
    gigabytes: float


def sources(config: Config) -> Iterator[Source]:
    """All that ``config`` takes from the hub.

    Raises:
        UserError: what is named in an option is pinned by no commit.
    """
    model = config.model
    found = [Source("model", model.path, model.revision or "")]
    if model.preview is not None:
        preview = model.preview
        files = ("config.json", "*.safetensors")
        found.append(Source("model.preview", preview.path, preview.revision or "", files))
    for name, reward in config.rewards.items():
        found += _reward_sources(f"rewards.{name}", reward)
    for source in dict.fromkeys(found):
        if Path(source.repository).exists() or not re.fullmatch(HUB_ID, source.repository):
            continue
        if not re.fullmatch(COMMIT, source.revision):
            raise UserError(
                f"{source.place}: {source.repository}@{source.revision}: expected a commit of 40 "
                f"hexadecimal digits, as https://huggingface.co/{source.repository}/commits/main "
                "lists them"
            )
        yield source


def _reward_sources(place: str, reward: RewardSettings) -> Iterator[Source]:
    if reward.path is not None:
        file = reward.options.get("file") or WEIGHTS.get(reward.kind, "*.safetensors")
        yield Source(place, reward.path, reward.revision or "", (*TEXTS, file))
    for key, value in reward.options.items():
        if isinstance(value, str) and (match := ON_HUB.fullmatch(value)):
            repository, revision, file = match.groups()
            yield Source(f"{place}.options.{key}", repository, revision, (file,) if file else TEXTS)


def fetch(config: Config) -> Iterator[Fetched]:
    """Download all that ``config`` needs, and compare every file with what the hub says it is.

    Nothing is downloaded before it is known that everything may be.

    Raises:
        UserError: something is missing, gated, unreachable or damaged.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    needed = list(sources(config))
    licences = {}
    for source in needed:
        info = _asked(source, lambda s: api.model_info(s.repository, revision=s.revision))
        tags = [tag for tag in info.tags or [] if tag.startswith("license:")]
        licences[source] = tags[0].removeprefix("license:") if tags else "none named"
        try:
            _asked(source, lambda s: api.auth_check(s.repository))
        except UserError as error:
            raise UserError(f"{error} (licence: {licences[source]})") from None
    for source in needed:
        folder = Path(_asked(source, lambda s: _download(s, config.model.family)))
        proof = _asked(
            source, lambda s: api.verify_repo_checksums(s.repository, revision=s.revision)
        )
        if proof.mismatches:
            file = proof.mismatches[0]["path"]
            raise UserError(f"{source}: {file} is not what the hub has; delete {folder / file}")
        files = [file for file in folder.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files) / 1e9
        yield Fetched(source, licences[source], len(files), size)


def _download(source: Source, family: str) -> str:
    from huggingface_hub import snapshot_download

    if source.files:
        return snapshot_download(
            source.repository, revision=source.revision, allow_patterns=list(source.files)
        )

    from ttsnap.diffusion import sampler_class
    from ttsnap.diffusion.loading import NOT_LOADED

    # diffusers knows which of the variants of a repository it is going to load.
    pipeline = sampler_class(family).pipeline()
    return str(
        pipeline.download(
            source.repository,
            revision=source.revision,
            use_safetensors=True,
            **dict.fromkeys(NOT_LOADED),
        )
    )


def _asked(source: Source, ask: Callable[[Source], T]) -> T:
    """The answer of the hub.

    Raises:
        UserError: it gives none.
    """
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"{constants.ENDPOINT}/{source.repository}"
    try:
        return ask(source)
    except GatedRepoError:
        reason = (
            f"gated: accept its licence at {page}, make a token at {constants.ENDPOINT}"
            "/settings/tokens, and set HF_TOKEN"
        )
    except RevisionNotFoundError:
        reason = f"no such commit in {page}"
    except RepositoryNotFoundError:
        reason = f"no such repository as {page}, or a private one: set HF_TOKEN"
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx2.HTTPError, OSError) as error:
        reason = f"cannot be fetched from {constants.ENDPOINT}: {str(error).splitlines()[0]}"
    raise UserError(f"{source}: {reason}")


def missing(config: Config) -> Iterator[str]:
    """One line for each source that is not, or not completely, on this machine.

    Looks at the cache only, and at no weights.
    """
    for source in sources(config):
        if not _is_here(source):
            yield f"{source} is not on this machine: run `ttsnap fetch` with this configuration"


def _is_here(source: Source) -> bool:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = list(source.files or ("model_index.json",))
    try:
        folder = Path(
            snapshot_download(
                source.repository,
                revision=source.revision,
                allow_patterns=patterns,
                local_files_only=True,
            )
        )
    except LocalEntryNotFoundError:
        return False
    if source.files:
        return True
    return (folder / "model_index.json").is_file() and not any(_lacking(folder))


def _lacking(folder: Path) -> Iterator[str]:
    """Parts of a pipeline without their weights."""
    for config in folder.glob("*/config.json"):
        part = config.parent
        shards = {
            shard
            for index in part.glob("*.safetensors.index.json")
            for shard in json.loads(index.read_bytes())["weight_map"].values()
        }
        whole = all((part / shard).is_file() for shard in shards)
        if not whole or not any(part.glob("*.safetensors")):
            yield part.name
