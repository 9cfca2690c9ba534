"""Make drafts of the images of one block of a store, and score them.

The rewards of a prompt are kept as soon as they are there: a killed job resumes at the next one.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ttsnap import config
from ttsnap.diffusion.sources import in_precision_of
from ttsnap.run.weights import weight_stamps
from ttsnap.stages import RewardName, RuntimeOption, StoreOption, json_option, run
from ttsnap.store.files import atomic, sha256_of
from ttsnap.store.receipts import write_receipt
from ttsnap.store.trajectories import open_store

VERSION = 1


class Settings(config.Settings):
    model: config.Model
    sampling: config.Sampling
    draft: config.Draft
    reward: config.RewardSettings
    prompts: str
    version: int


def main(
    settings: Annotated[Settings, json_option(Settings)],
    runtime: RuntimeOption,
    store: StoreOption,
    block: Annotated[int, typer.Option(min=0)],
    reward: RewardName,
    out: Annotated[Path, typer.Option(help="Receipt of the rewards, which lie beside it.")],
) -> None:
    from ttsnap.diffusion import load_sampler
    from ttsnap.diffusion.twins import share
    from ttsnap.generate import draft_images
    from ttsnap.progress import track
    from ttsnap.rewards import load_reward

    opened = open_store(store)
    prompts = opened.block_prompts(block)
    model = in_precision_of(opened.settings["model"], settings.model)
    sampler = load_sampler(model, settings.sampling, runtime)
    drafter = sampler.drafter(settings.draft.steps, settings.draft.guided)
    scorer = load_reward(settings.reward, name=reward, device=runtime.device)
    logging.info(
        "%d prompts x %d drafts of %d steps %s guidance to score with %s",
        *(len(prompts), opened.images_per_prompt, drafter.steps),
        *("with" if drafter.guided else "without", reward),
    )
    unfinished = out.with_suffix(".parts") / _fingerprint(settings, opened.fingerprint)
    rows = []
    for prompt in track(prompts, f"{store.name} block {block}", len(prompts)):
        kept = unfinished / f"{prompt:06d}.npy"
        if not kept.exists():
            text = opened.prompts[prompt].text
            scores = [
                scorer.score(images, [text] * len(images))
                for images in draft_images(drafter, opened, prompt, runtime.batch_size)
            ]
            with atomic(kept) as file:
                np.save(file, np.concatenate(scores))
        rows.append(np.load(kept))
    path = out.with_suffix(".npy")
    with atomic(path) as file:
        np.save(file, np.stack(rows))
    write_receipt(
        out,
        {
            "kind": "drafts",
            "reward": reward,
            "evaluations": settings.draft.steps * share(drafter, sampler),
            "shape": [len(rows), opened.images_per_prompt],
            "sha256": sha256_of(path),
        },
    )
    shutil.rmtree(unfinished.parent, ignore_errors=True)


def _fingerprint(settings: Settings, store: str) -> str:
    """Of what decides the rewards."""
    known = f"{settings.model_dump_json()}\0{store}\0{weight_stamps(settings.reward)}"
    return hashlib.sha256(known.encode()).hexdigest()[:16]


if __name__ == "__main__":
    run(main)
