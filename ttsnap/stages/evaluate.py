"""How well base and finetuned rewards predict the final image's reward, step by step."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from ttsnap.stages import BaseReceipt, FinetunedReceipt, run
from ttsnap.store.tensors import RewardTensor


def main(
    base: BaseReceipt,
    finetuned: FinetunedReceipt,
    out: Annotated[Path, typer.Option()],
) -> None:
    from ttsnap.narf.evaluate import evaluate

    tensors = [RewardTensor.load(receipt.with_suffix(".zarr")) for receipt in (base, finetuned)]
    evaluate(*tensors).to_csv(out, index=False)
    logging.info("%d prompts, %d steps evaluated", len(tensors[0].values), len(tensors[0].steps))


if __name__ == "__main__":
    run(main)
