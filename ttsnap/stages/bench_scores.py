"""Score what searches of a benchmark found on a block of its prompts, by one judge.

Scores are kept prompt by prompt, so that a killed job asks its judge for no picture twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from PIL import Image

from ttsnap import config
from ttsnap.bench.settings import Judge, block_file, folders
from ttsnap.prompts import load_prompts
from ttsnap.searching.output import is_refused
from ttsnap.stages import RuntimeOption, json_option, run
from ttsnap.store.tensors import write_table


class Settings(config.Settings):
    judge: Judge
    methods: list[str]
    budgets: list[str]


def main(
    settings: Annotated[Settings, json_option(Settings)],
    runtime: RuntimeOption,
    folder: Annotated[Path, typer.Option(help="Folder of the benchmark.")],
    block: Annotated[str, typer.Option()],
    out: Annotated[Path, typer.Option()],
) -> None:
    judge = settings.judge
    by = hashlib.sha256(judge.model_dump_json().encode()).hexdigest()
    kept = out.with_suffix(".jsonl")
    found = _read(kept, by)
    prompts = [
        {"id": one.id, "prompt": one.text} for one in load_prompts(block_file(folder, block))
    ]
    wanted = {
        (method, budget, prompt["id"]): (prompt["prompt"], path)
        for method, budget, prompt, path in folders(
            folder, settings.methods, settings.budgets, prompts
        )
        if not is_refused(path)
    }
    left = [key for key in wanted if key not in found]
    if left:
        from ttsnap.errors import JudgeRefused
        from ttsnap.progress import track
        from ttsnap.rewards import load_judge, load_reward

        if judge.function is not None:
            score = load_judge(judge.function)
        else:
            assert judge.reward is not None
            score = load_reward(judge.reward, name=judge.name, device=runtime.device).score
        # What an earlier attempt was writing when it was killed may be cut short.
        kept.write_text("".join(_line(by, key, found[key]) for key in found), encoding="utf-8")
        ids = list(dict.fromkeys(key[2] for key in left))
        for one in track(ids, f"prompts, by {judge.name}"):
            keys = [key for key in left if key[2] == one]
            texts = [wanted[key][0] for key in keys]
            images = np.stack([_image(wanted[key][1]) for key in keys])
            try:
                found |= dict(zip(keys, map(float, score(images, texts)), strict=True))
            except JudgeRefused as reason:
                logging.warning("prompt %s: %s", one, reason)
                found |= dict.fromkeys(keys, math.nan)
            with kept.open("a", encoding="utf-8") as lines:
                lines.writelines(_line(by, key, found[key]) for key in keys)
    names = ["method", "budget", "prompt_id", "score"]
    write_table(out, pd.DataFrame([[*key, found[key]] for key in wanted], columns=names))
    kept.unlink(missing_ok=True)
    logging.info("%d pictures, %d of them scored before", len(wanted), len(wanted) - len(left))


def _image(folder: Path) -> np.ndarray:
    with Image.open(folder / "best.png") as opened:
        return np.array(opened.convert("RGB"))


def _line(by: str, key: tuple[str, str, str], score: float) -> str:
    return json.dumps([by, *key, score]) + "\n"


def _read(kept: Path, by: str) -> dict[tuple[str, str, str], float]:
    """Scores of an earlier attempt with the same judge; its last line may be cut short."""
    if not kept.exists():
        return {}
    found = {}
    for line in kept.read_text(encoding="utf-8").split("\n")[:-1]:
        made_by, method, budget, prompt, score = json.loads(line)
        if made_by == by:
            found[method, budget, prompt] = score
    return found


if __name__ == "__main__":
    run(main)
