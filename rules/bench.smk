# A benchmark of searches, started by `ttsnap bench`; its folder says what it consists of.
import json
import os
import shlex
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")

sys.path.insert(0, str(Path(workflow.basedir).parent))

from ttsnap.bench.settings import Bench, read_bench
from ttsnap.config import Runtime

OUT = config["out"]
BENCH = read_bench(Path(OUT))
os.environ.update(TTSNAP_RUNTIME=Runtime(device=BENCH.device).model_dump_json())
GPU = 0 if BENCH.device == "cpu" else 1


wildcard_constraints:
    judge="own|held_out",
    block=r"\d{4}",
    method="[^/]+",
    budget="[^/]+",


def scaled(amount):
    """A resource that grows with every attempt."""
    return lambda wildcards, attempt: attempt * amount


SCORES = expand(
    f"{OUT}/scores/{{judge}}/block_{{block}}.parquet", judge=BENCH.judges, block=BENCH.blocks
)
SEARCHES = expand(
    f"{OUT}/search/{{method}}/{{budget}}/block_{{block}}.done",
    method=BENCH.methods,
    budget=BENCH.budgets,
    block=BENCH.blocks,
)


rule all:
    default_target: True
    input:
        f"{OUT}/bench.html",
    localrule: True


rule bench_search:
    input:
        f"{OUT}/prompts/block_{{block}}.jsonl",
    output:
        touch(f"{OUT}/search/{{method}}/{{budget}}/block_{{block}}.done"),
    log:
        f"{OUT}/logs/search/{{method}}/{{budget}}/block_{{block}}.log",
    threads: 1
    resources:
        gpu=GPU,
        gpu_job=GPU,
        mem_mb=scaled(16000),
        runtime=scaled(720),
    params:
        search=shlex.join(BENCH.search),
        folder=f"{OUT}/search/{{method}}/{{budget}}",
    message:
        "Search by {wildcards.method} with {wildcards.budget}, block {wildcards.block}"
    shell:
        "python -m ttsnap search --prompts {input:q} --method {wildcards.method:q}"
        " --budget {wildcards.budget:q} --out {params.folder:q} --resume {params.search}"
        " 2>&1 | tee {log:q}"


rule bench_scores:
    input:
        lambda wildcards: [one for one in SEARCHES if one.endswith(f"_{wildcards.block}.done")],
    output:
        f"{OUT}/scores/{{judge}}/block_{{block}}.parquet",
    log:
        f"{OUT}/logs/scores/{{judge}}/block_{{block}}.log",
    threads: 1
    resources:
        gpu=GPU,
        gpu_job=GPU,
        mem_mb=scaled(16000),
        runtime=scaled(240),
    params:
        settings=lambda wildcards: json.dumps(
            {
                "judge": BENCH.judges[wildcards.judge].model_dump(mode="json"),
                "methods": BENCH.methods,
                "budgets": BENCH.budgets,
            }
        ),
        folder=OUT,
    message:
        "Score what was found, block {wildcards.block}"
    shell:
        "python -m ttsnap.stages.bench_scores --settings {params.settings:q}"
        " --folder {params.folder:q} --block {wildcards.block} --out {output:q} 2>&1 | tee {log:q}"


rule bench_page:
    input:
        SEARCHES,
        SCORES,
    output:
        f"{OUT}/results.parquet",
        f"{OUT}/table.md",
        f"{OUT}/bench.html",
    log:
        f"{OUT}/logs/page.log",
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(30),
    params:
        bench=BENCH.model_dump_json(),
        folder=OUT,
    message:
        "Write tables and page"
    shell:
        "python -m ttsnap.stages.bench_page --folder {params.folder:q} 2>&1 | tee {log:q}"
