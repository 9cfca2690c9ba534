"""Generate trajectories: denoise the candidates of a block, decode what is to be stored, resume.

A block is cut into batches in a way that depends on nothing but its size and the batch size: whole
prompts together as long as they fit, else equal pieces of one prompt. A finished batch is one part
file in ``<split>.parts/<fingerprint>/block_0003/``. A killed job redoes the batch it was in and
nothing else, so what it ends with is bit-identical to an uninterrupted run. When all parts are
there they become the block's shards. A record beside the parts outlives them: it lets a job whose
receipt was lost, or removed by the workflow, see that its shards are whole. Shards that had to be
made anew and came out the same get the same receipt again, byte by byte, so that nothing which
follows from them is redone.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from ttsnap.diffusion.backoff import Backoff
from ttsnap.errors import UserError
from ttsnap.progress import track
from ttsnap.prompts import step_seed
from ttsnap.store.files import atomic
from ttsnap.store.receipts import read_receipt, write_receipt
from ttsnap.store.trajectories import TrajectoryStore, parts_folder

if TYPE_CHECKING:
    import torch

    from ttsnap.diffusion.sampler import Conditioning, Sampler

VERSION = 1
"""Raised when the same settings would give other images. Belongs into a store's settings."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CandidateBatch:
    """Candidates denoised together: some images of some prompts of a block, as positions in it."""

    prompts: range
    images: range

    def __len__(self) -> int:
        return len(self.prompts) * len(self.images)

    @property
    def name(self) -> str:
        prompts, images = self.prompts, self.images
        return f"p{prompts.start}-{prompts.stop}_i{images.start}-{images.stop}.npz"


def cut(prompts: int, images: int, batch_size: int, group: int = 1) -> list[CandidateBatch]:
    """Cut (prompts x images) candidates into batches of nearly equal size, none too large.

    Images of a prompt are cut between groups of them, unless a batch is smaller than a group.
    """
    together = max(1, batch_size // images)
    if batch_size < group or images % group:
        group = 1
    return [
        CandidateBatch(some_prompts, range(some.start * group, some.stop * group))
        for some_prompts in _pieces(prompts, together)
        for some in _pieces(images // group, batch_size // group)
    ]


def _pieces(count: int, most: int) -> list[range]:
    number = math.ceil(count / most)
    edges = [count * i // number for i in range(number + 1)]
    return [range(*edge) for edge in pairwise(edges)]


def generate_block(
    sampler: Sampler, store: TrajectoryStore, block: int, *, receipt: Path, batch_size: int
) -> None:
    """Generate one block of a store and write its receipt.

    Takes up whatever an interrupted job left, and leaves a finished block as it is.

    Args:
        sampler: of the model and settings the store is meant for.
        store: of all blocks.
        block: number of the block.
        receipt: file that is written last; its presence means that the block is finished.
        batch_size: candidates denoised at once, fewer where memory runs out. Does not change
            images beyond rounding.

    Raises:
        UserError: if the sampler does not take the store's steps, or the denoiser overflows.
    """
    if store.final != sampler.steps - 1 or not np.array_equal(
        sampler.sigmas[store.steps], store.sigmas
    ):
        raise UserError(f"{store.path}: made for another sampler: steps or sigmas differ")
    parts = parts_folder(receipt.parent) / store.fingerprint[:16] / f"block_{block:04d}"
    record = parts.with_suffix(".json")
    finished = _finished(store, record)
    if finished is not None:
        log.info("block %d of %s is already there", block, store.path.name)
    else:
        try:
            fields = _generate(sampler, store, block, parts, batch_size)
        except (FileNotFoundError, FileExistsError):
            # A job that outlived its Snakemake may have ended the block, and tidied up, meanwhile.
            finished = _finished(store, record)
            if finished is None:
                raise
        else:
            finished = _recorded(record)
            if finished is None or finished["shards"] != fields["shards"]:
                write_receipt(record, fields)
                finished = read_receipt(record)
    if _recorded(receipt) != finished:
        with atomic(receipt) as file:
            file.write(record.read_bytes())
    store.remove_strays(block)
    shutil.rmtree(parts, ignore_errors=True)


def draft_images(
    drafter: Sampler, store: TrajectoryStore, prompt: int, batch_size: int
) -> list[np.ndarray]:
    """Drafts of all images of a store's prompt: final images of cheap runs from the same noise.

    Args:
        drafter: of :meth:`~ttsnap.diffusion.sampler.Sampler.drafter`.
        store: of the images; no more than its prompts and seeds are read.
        prompt: position.
        batch_size: drafts denoised at once, fewer where memory runs out.

    Returns:
        Batches, each uint8 (n, H, W, 3), in the order of the images.
    """
    text = store.prompts[prompt]
    conditioning = drafter.encode([text.text], [text.negative])
    seeds = store.seeds[prompt].tolist()

    def sample(part: range) -> np.ndarray:
        some = seeds[part.start : part.stop]
        state = drafter.start(conditioning, some, [0] * len(some))
        for step in range(drafter.steps):
            state, _ = drafter.step(state, _noise(drafter, some, step))
        return drafter.decode(state.latents)

    return list(Backoff(batch_size).map(sample, len(seeds)))


def _finished(store: TrajectoryStore, record: Path) -> dict[str, Any] | None:
    """The record of a block whose shards are whole."""
    finished = _recorded(record)
    return None if finished is None or any(store.damage(finished)) else finished


def _recorded(record: Path) -> dict[str, Any] | None:
    try:
        return read_receipt(record)
    except UserError:
        return None


def _generate(
    sampler: Sampler, store: TrajectoryStore, block: int, parts: Path, batch_size: int
) -> dict[str, Any]:
    started = time.perf_counter()
    prompts = store.block_prompts(block)
    images = store.images_per_prompt
    batches = cut(len(prompts), images, batch_size, store.group_size)
    reference_seeds = store.reference_seeds
    missing = [batch for batch in batches if not _intact(parts / batch.name)]
    log.info(
        "block %d of %s: %d prompts x %d images, %d steps stored; %d of %d batches to do",
        *(block, store.path.name, len(prompts), images, len(store.steps)),
        *(len(missing), len(batches)),
    )
    backoff, decodes = Backoff(batch_size), Backoff(batch_size)
    # One thread writes a batch to disk while the next one is denoised.
    with ThreadPoolExecutor(max_workers=1) as writer:
        written: Future[None] | None = None
        conditioned: range | None = None
        for batch in track(missing, f"{store.path.stem} block {block}", len(missing)):
            chosen = prompts[batch.prompts.start : batch.prompts.stop]
            if batch.prompts != conditioned:
                some = store.prompts[chosen.start : chosen.stop]
                conditioning = sampler.encode([p.text for p in some], [p.negative for p in some])
                conditioned = batch.prompts
            where = (
                slice(chosen.start, chosen.stop),
                slice(batch.images.start, batch.images.stop),
            )
            rows = np.repeat(np.arange(len(some)), len(batch.images))
            seeds, references = store.seeds[where].ravel(), reference_seeds[where].ravel()
            sample = partial(
                _sample, sampler, conditioning, seeds, references, rows, store, decodes
            )
            by_array = zip(*backoff.map(sample, len(batch)), strict=True)
            whole = [np.concatenate(pieces) for pieces in by_array]
            frames = [values.reshape(len(some), -1, *values.shape[1:]) for values in whole]
            if written is not None:
                written.result()
            written = writer.submit(_write_part, parts / batch.name, frames)
        if written is not None:
            written.result()

    def read(number: int) -> np.ndarray:
        pieces = []
        for batch in batches:
            with np.load(parts / batch.name) as part:
                pieces.append(part[f"arr_{number}"])
        values = np.empty((len(prompts), images, *pieces[0].shape[2:]), pieces[0].dtype)
        for batch, piece in zip(batches, pieces, strict=True):
            values[
                batch.prompts.start : batch.prompts.stop, batch.images.start : batch.images.stop
            ] = piece
        return values

    fields = store.write_block(block, read, lambda position: read(len(store.steps) + position))
    seconds = time.perf_counter() - started
    done = sum(map(len, missing))
    log.info("block %d: %d trajectories in %.1f s, %.2f/s", block, done, seconds, done / seconds)
    return {**fields, "batch_size": batch_size, "seconds": seconds, "trajectories_generated": done}


def _sample(
    sampler: Sampler,
    conditioning: Conditioning,
    seeds: np.ndarray,
    references: np.ndarray,
    rows: np.ndarray,
    store: TrajectoryStore,
    decodes: Backoff,
    part: range,
) -> list[np.ndarray]:
    """Some candidates of a batch: their images at each of the stored steps, and then their latents
    if they are kept. As many are decoded at once as memory allows."""
    some = slice(part.start, part.stop)
    state = sampler.start(
        conditioning, seeds[some].tolist(), rows[some].tolist(), references[some].tolist()
    )
    decoded: list[Future[np.ndarray]] = []
    latents: list[np.ndarray] = []
    # While the host waits for pixels and converts them, the device goes on denoising.
    with ThreadPoolExecutor(max_workers=1) as decoder:
        for step in range(sampler.steps):
            noise = _noise(sampler, seeds[some].tolist(), step)
            state, estimate = sampler.step(state, noise)
            if step in store.steps:
                if store.latents is not None:
                    latents.append(_kept(sampler.unpack(estimate)))
                if decoded:
                    decoded[-1].result()
                decode = sampler.decode if state.done else sampler.preview
                decoded.append(decoder.submit(_decoded, decodes, decode, estimate))
                if not sampler.decodes_aside:
                    decoded[-1].result()
    return [*(images.result() for images in decoded), *latents]


def _noise(sampler: Sampler, seeds: Sequence[int], step: int) -> torch.Tensor | None:
    """What a step adds to each candidate; None where steps add nothing."""
    if not sampler.stochastic:
        return None
    return sampler.noise([step_seed(seed, step) for seed in seeds])


def _decoded(
    decodes: Backoff, decode: Callable[[torch.Tensor], np.ndarray], latents: torch.Tensor
) -> np.ndarray:
    pieces = decodes.map(lambda some: decode(latents[some.start : some.stop]), len(latents))
    return np.concatenate(pieces)


def _kept(latents: torch.Tensor) -> np.ndarray:
    """In half precision, which is finer than what previews show of them."""
    kept: np.ndarray = latents.half().cpu().numpy()
    return kept


def _write_part(path: Path, frames: Sequence[np.ndarray]) -> None:
    with atomic(path) as file:
        # The zip container checks a CRC of every array as it is read.
        np.savez(file, *frames)


def _intact(path: Path) -> bool:
    try:
        with ZipFile(path) as part:
            return part.testzip() is None
    except (FileNotFoundError, BadZipFile):
        return False
