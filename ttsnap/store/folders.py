"""Stores as trees of PNG files, ``p0000/id000/s00.png`` …, out and in.

The numbers are the prompt's position, the image, and the step index.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from ttsnap.errors import UserError
from ttsnap.progress import track
from ttsnap.prompts import Prompt
from ttsnap.store.files import Place, atomic, atomic_folder
from ttsnap.store.receipts import block_receipt, write_receipt
from ttsnap.store.trajectories import UNKNOWN_SEED, create_store, open_store, store_receipt

THREADS = 4


def image_path(prompt: int, image: int, step: int) -> str:
    """Where the tree keeps an image."""
    return f"p{prompt:04d}/id{image:03d}/s{step:02d}.png"


def export_folders(store_path: Place, out: Path) -> int:
    """Write a trajectory store as a tree of PNG files, and its prompts as ``prompts.json``.

    Args:
        store_path: a store whose blocks are all generated.
        out: folder that does not exist yet, or is empty.

    Returns:
        Number of images.

    Raises:
        UserError: if ``out`` holds something, or a block of the store is missing.
    """
    from PIL import Image

    store = open_store(store_path)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and is not an empty folder")
    entries = []
    for prompt in store.prompts:
        entry = {"prompt": prompt.text, "id": prompt.id}
        entries.append(entry | ({"negative_prompt": prompt.negative} if prompt.negative else {}))

    def write(job: tuple[str, np.ndarray]) -> None:
        path, pixels = job
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(out / path)

    together = store.array.chunks[0]
    starts = range(0, len(store), together)
    with ThreadPoolExecutor(THREADS) as pool:
        for start in track(starts, f"export {store_path}", len(starts)):
            prompts = range(start, min(start + together, len(store)))
            for step in store.steps:
                images = store.images(slice(prompts.start, prompts.stop), step)
                jobs = [
                    (image_path(prompt, image, step), images[prompt - start, image])
                    for prompt in prompts
                    for image in range(store.images_per_prompt)
                ]
                list(pool.map(write, jobs))
    with atomic(out / "prompts.json") as file:
        file.write(json.dumps(entries, indent=2, ensure_ascii=False).encode() + b"\n")
    return int(np.prod(store.array.shape[:3]))


def import_folders(
    folder: Path, store_path: Path, prompts: Sequence[Prompt], *, receipts: Path, block: int
) -> int:
    """Read a tree of PNG files into a new trajectory store, with receipts as if generated.

    Seeds and sigmas are not in such a tree: they become ``UNKNOWN_SEED`` and NaN.

    Args:
        folder: the tree; every prompt has the same images, every image the same steps.
        store_path: the store to make; must not exist.
        prompts: what ``p0000``, ``p0001``, … show.
        receipts: folder for the receipts.
        block: prompts per block.

    Returns:
        Number of images.

    Raises:
        UserError: naming the first file or folder that is missing, unexpected, no RGB PNG, or of
            another size than the first. Nothing is left behind then.
    """
    if store_path.exists():
        raise UserError(f"{store_path}: exists; remove it, or import to another place")
    images, steps = _survey(folder, len(prompts))
    height, width, _ = _read(folder / image_path(0, 0, steps[0])).shape

    def read(place: tuple[int, int, int]) -> np.ndarray:
        path = folder / image_path(*place)
        pixels = _read(path)
        if pixels.shape != (height, width, 3):
            found = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise UserError(f"{path}: {found} pixels, the first image has {width}x{height}")
        return pixels

    written = []
    with atomic_folder(store_path) as temporary, ThreadPoolExecutor(THREADS) as pool:
        store = create_store(
            temporary,
            prompts=prompts,
            seeds=np.full((len(prompts), images), UNKNOWN_SEED),
            steps=steps,
            sigmas=np.full(len(steps), np.nan),
            height=height,
            width=width,
            block=block,
            settings={"imported": folder.name},
        )

        def read_step(places: range, position: int) -> np.ndarray:
            step = store.steps[position]
            jobs = [(prompt, image, step) for prompt in places for image in range(images)]
            pixels = np.stack(list(pool.map(read, jobs)))
            return pixels.reshape(len(places), images, height, width, 3)

        for number in track(range(store.blocks), f"import {folder}", store.blocks):
            places = store.block_prompts(number)
            written.append(store.write_block(number, partial(read_step, places)))
    write_receipt(receipts / "init.json", store_receipt(open_store(store_path)))
    for number, receipt in enumerate(written):
        write_receipt(block_receipt(receipts, number), {**receipt, "store": store_path.name})
    return len(prompts) * images * len(steps)


def _survey(folder: Path, prompts: int) -> tuple[int, list[int]]:
    """Number of images and the step indices of all prompts of a tree."""
    found = _count(folder, r"p\d+", "p{:04d}")
    if found != prompts:
        raise UserError(f"{folder}: {found} folders p0000, p0001, …, but {prompts} prompts")
    images = _count(folder / "p0000", r"id\d+", "id{:03d}")
    steps = _steps(folder / "p0000/id000")
    for prompt in range(prompts):
        place = folder / f"p{prompt:04d}"
        count = _count(place, r"id\d+", "id{:03d}")
        if count != images:
            raise UserError(f"{place}: {count} folders id000, id001, …, but p0000 has {images}")
        for image in range(images):
            other = _steps(place / f"id{image:03d}")
            for step in sorted(set(other) ^ set(steps)):
                what = "missing" if step in steps else "p0000/id000 has no such step"
                raise UserError(f"{folder / image_path(prompt, image, step)}: {what}")
    return images, steps


def _names(folder: Path, pattern: str) -> set[str]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    return {path.name for path in folder.iterdir() if re.fullmatch(pattern, path.name)}


def _count(folder: Path, pattern: str, name: str) -> int:
    """Number of folders that are numbered from 0 without a gap."""
    names = _names(folder, pattern)
    for number in range(max(1, len(names))):
        if name.format(number) not in names:
            raise UserError(f"{folder / name.format(number)}: missing")
    return len(names)


def _steps(folder: Path) -> list[int]:
    names = _names(folder, r"s\d{2,}\.png")
    if not names:
        raise UserError(f"{folder}: no images s00.png, s01.png, …")
    return sorted(int(name[1:-4]) for name in names)


def _read(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.mode != "RGB":
                raise UserError(f"{path}: mode {image.mode}, expected an RGB image of 8 bits")
            return np.asarray(image)
    except (OSError, SyntaxError) as error:
        raise UserError(f"{path}: not a readable PNG ({error})") from None
