"""What a run needs from the hub: fetched ahead of time, proven, and found again without a network.

Files lie in the cache of huggingface_hub (``HF_HOME``), where diffusers and transformers look for
them. Jobs run with ``HF_HUB_OFFLINE=1``, so that none starts a download on a node without internet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from ttsnap.config import COMMIT, FILE, Config, Model, RewardSettings, is_hub_id
from ttsnap.diffusion import sampler_class
from ttsnap.diffusion.sources import TEXTS, lacking, split, with_family
from ttsnap.errors import UserError
from ttsnap.hub import asked

T = TypeVar("T")

ON_HUB = re.compile(r"(\w[\w.-]*/[\w.-]+)@(\w+)(?::(.+))?")

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
    if model.components is not None:
        path, revision = split(model.components)
        if is_hub_id(path):
            weights = [f"{name}/*{FILE}" for name in lacking(model.path, model.components)]
            found.append(Source("model.components", path, revision or "", (*TEXTS, *weights)))
    for index, lora in enumerate(model.loras):
        place, file = f"model.loras.{index}", lora.weight or ""
        found.append(Source(place, lora.path, lora.revision or "", (file,)))
    for place, decoder in (("model.vae", model.vae), ("model.preview", model.preview)):
        if decoder is not None and decoder.path is not None:
            files = ("config.json", "*" + FILE)
            found.append(Source(place, decoder.path, decoder.revision or "", files))
    for name, reward in config.rewards.items():
        found += _reward_sources(f"rewards.{name}", reward)
    for source in dict.fromkeys(found):
        if not is_hub_id(source.repository):
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
        repository, revision = source.repository, source.revision
        info = _asked(source, partial(api.model_info, repository, revision=revision))
        tags = [tag for tag in info.tags or [] if tag.startswith("license:")]
        licences[source] = tags[0].removeprefix("license:") if tags else "none named"
        try:
            _asked(source, partial(api.auth_check, repository))
        except UserError as error:
            raise UserError(f"{error} (licence: {licences[source]})") from None
    for source in needed:
        repository, revision = source.repository, source.revision
        folder = Path(_asked(source, partial(_download, source, config.model)))
        proof = _asked(source, partial(api.verify_repo_checksums, repository, revision=revision))
        if proof.mismatches:
            file = proof.mismatches[0]["path"]
            raise UserError(f"{source}: {file} is not what the hub has; delete {folder / file}")
        files = [file for file in folder.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files) / 1e9
        yield Fetched(source, licences[source], len(files), size)


def _asked(source: Source, ask: Callable[[], T]) -> T:
    return asked(str(source), source.repository, ask)


def _download(source: Source, model: Model) -> str | Path:
    from huggingface_hub import snapshot_download

    if source.files:
        return snapshot_download(
            source.repository, revision=source.revision, allow_patterns=list(source.files)
        )

    from ttsnap.diffusion.loading import download

    pipeline = sampler_class(with_family(model).family).pipeline()
    return download(pipeline, source.repository, source.revision, model.dtype)


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
            for index in part.glob("*.safetensors*.json")
            for shard in json.loads(index.read_bytes())["weight_map"].values()
        }
        whole = all((part / shard).is_file() for shard in shards)
        if not whole or not any(part.glob("*.safetensors")):
            yield part.name
