"""Tables and the page of a benchmark, from what its searches left and its judges said."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from ttsnap.bench.settings import read_bench
from ttsnap.stages import run
from ttsnap.store.tensors import write_table


def main(
    folder: Annotated[Path, typer.Option(help="Folder of the benchmark.")],
) -> None:
    from ttsnap.bench.page import page
    from ttsnap.bench.results import collect, markdown

    bench = read_bench(folder)
    results = collect(folder, bench)
    write_table(folder / "results.parquet", results)
    (folder / "table.md").write_text(markdown(results, bench), encoding="utf-8")
    text = page(folder, bench, results)
    (folder / "bench.html").write_text(text, encoding="utf-8")
    logging.info("%d searches, %s", len(results), folder / "bench.html")


if __name__ == "__main__":
    run(main)
