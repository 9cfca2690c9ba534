"""How well rewards predict that of the final image: base and finetuned by step, and of drafts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from ttsnap.stages import BaseReceipt, DraftReceipts, FinetunedReceipt, run
from ttsnap.store.tensors import RewardTensor, read_drafts


def main(
    base: BaseReceipt,
    finetuned: FinetunedReceipt,
    out: Annotated[Path, typer.Option()],
    drafts: DraftReceipts = None,
) -> None:
    from ttsnap.narf.evaluate import evaluate, evaluate_drafts

    tensors = [RewardTensor.load(receipt.with_suffix(".zarr")) for receipt in (base, finetuned)]
    tables = [evaluate(*tensors)]
    if drafts:
        tables.append(evaluate_drafts(read_drafts(drafts), tensors[0].values[:, :, -1]))
    pd.concat(tables).to_csv(out, index=False)
    logging.info("%d prompts, %d steps evaluated", len(tensors[0].values), len(tensors[0].steps))


if __name__ == "__main__":
    run(main)
