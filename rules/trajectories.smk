# Prompts to stores of Tweedie estimates: one store per split, one shard and one job per block.
from ttsnap import generate
from ttsnap.stages import model, preview


rule model:
    output:
        f"{RUN}/model.json",
    log:
        f"{RUN}/logs/model.log",
    benchmark:
        f"{RUN}/benchmarks/model.jsonl"
    conda:
        "../envs/generate.yaml"
    threads: 1
    resources:
        gpu=GPU,
        gpu_job=GPU,
        mem_mb=scaled(8000),
        runtime=scaled(30),
    params:
        **weights(CONFIG.model),
        settings=leaves(model=CONFIG.model, sampling=CONFIG.sampling, version=model.VERSION),
    message:
        "Measure the model: noise levels, and TFLOPs of one evaluation and one decode"
    shell:
        "python -m ttsnap.stages.model --settings {params.settings:q}"
        " --out {output:q} 2>&1 | tee {log:q}"


rule trajectory_store:
    input:
        model=rules.model.output,
    output:
        f"{RUN}/trajectories/{{split}}/init.json",
    log:
        f"{RUN}/logs/trajectories/{{split}}/init.log",
    benchmark:
        f"{RUN}/benchmarks/trajectories/{{split}}/init.jsonl"
    priority: 1
    localrule: True
    conda:
        "../envs/generate.yaml"
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(10),
    params:
        settings=lambda wildcards: leaves(
            model=CONFIG.model,
            sampling=CONFIG.sampling,
            split=getattr(CONFIG.splits, wildcards.split),
            seed=CONFIG.seed,
            prompts=prompts_hash(PROMPTS[wildcards.split]),
            version=generate.VERSION,
        ),
        store=lambda wildcards: CONFIG.store(wildcards.split),
    message:
        "Lay out the trajectory store of {wildcards.split}"
    shell:
        "python -m ttsnap.stages.trajectory_store --settings {params.settings:q}"
        " --model {input.model:q} --store {params.store:q} --out {output:q} 2>&1 | tee {log:q}"


rule trajectories:
    input:
        init=rules.trajectory_store.output,
    output:
        f"{RUN}/trajectories/{{split}}/block_{{block}}.json",
    log:
        f"{RUN}/logs/trajectories/{{split}}/block_{{block}}.log",
    benchmark:
        f"{RUN}/benchmarks/trajectories/{{split}}/block_{{block}}.jsonl"
    wildcard_constraints:
        split="test",
    conda:
        "../envs/generate.yaml"
    threads: 1
    resources:
        gpu=GPU,
        gpu_job=GPU,
        mem_mb=scaled(16000),
        runtime=scaled(720),
    params:
        settings=lambda wildcards: leaves(
            model=CONFIG.model,
            sampling=CONFIG.sampling,
            split=getattr(CONFIG.splits, wildcards.split),
            prompts=prompts_hash(block_prompts(wildcards.split, wildcards.block)),
            version=generate.VERSION,
        ),
        store=lambda wildcards: CONFIG.store(wildcards.split),
    message:
        "Generate trajectories of {wildcards.split}, block {wildcards.block}"
    shell:
        "python -m ttsnap.stages.trajectories --settings {params.settings:q}"
        " --store {params.store:q} --block {wildcards.block}"
        " --out {output:q} 2>&1 | tee {log:q}"


# Finetuning goes step by step and is what a run waits for longest: what it needs comes first.
use rule trajectories as awaited_trajectories with:
    wildcard_constraints:
        split="train|val",
    priority: 1


# Of the first job of train, which is there before all others.
rule preview:
    input:
        trajectories=trajectory_receipts("train")[0],
    output:
        receipt=f"{RUN}/preview.json",
        map=f"{RUN}/preview.safetensors",
    log:
        f"{RUN}/logs/preview.log",
    benchmark:
        f"{RUN}/benchmarks/preview.jsonl"
    priority: 3
    conda:
        "../envs/generate.yaml"
    threads: 1
    resources:
        mem_mb=scaled(8000),
        runtime=scaled(30),
    params:
        settings=leaves(version=preview.VERSION),
        store=CONFIG.store("train"),
    message:
        "Fit the linear preview"
    shell:
        "python -m ttsnap.stages.preview --settings {params.settings:q}"
        " --store {params.store:q} --out {output.receipt:q} 2>&1 | tee {log:q}"
