"""The command ``ttsnap import-rewards``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttsnap.errors import UserError


def import_rewards(
    source: Annotated[
        list[Path],
        typer.Argument(
            help="Reward folders, or a folder of them; .npz or .npy tensors; or one YAML table."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="FILE.npz, or a folder for tensor stores; FILE.parquet for a table."),
    ],
) -> None:
    """Read released rewards into our formats, checked; `ttsnap simulate` takes the result.

    **Folders** such as `flux_hps_val_base` and `flux_hps_val_naft` hold one `p200_i200_s00.yaml`
    per step: `{prompt: [rewards]}`; a step without finetuned rewards falls back to the base ones.
    **Tensors** are arrays `hps_base` and `hps_naft` (prompts, images, steps). A **ground-truth
    table** is `{p0000: {id000: reward}}`.

    Example: `ttsnap import-rewards ttsnap-values --out hps.npz`
    """
    from ttsnap.simulation import released
    from ttsnap.store.tensors import write_table

    is_table = source[0].suffix in released.YAML and source[0].is_file()
    if is_table != (out.suffix == ".parquet") or (is_table and len(source) > 1):
        raise UserError(
            f"--out {out}: a single ground-truth YAML file becomes a .parquet table, everything "
            "else an .npz or a folder"
        )
    if is_table:
        table = released.ground_truth(source[0])
        write_table(out, table)
        print(f"{table.prompt_id.nunique()} prompts, {len(table)} rewards in {out}")
        return
    rewards = released.read_rewards(source)
    write = released.write_npz if out.suffix == ".npz" else released.write_tensors
    write(out, rewards)
    for name, reward in rewards.items():
        prompts, images, steps = reward.base.shape
        own = reward.finetuned_steps
        print(
            f"{name}: {prompts} prompts x {images} images x {steps} steps, finetuned at "
            f"{_ranges(own) or 'none'}, in {out}"
        )


def _ranges(steps: list[int]) -> str:
    """Such as ``0-14, 17``."""
    runs: list[list[int]] = []
    for step in steps:
        if runs and step == runs[-1][-1] + 1:
            runs[-1].append(step)
        else:
            runs.append([step])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
