# Noise-aware reward finetuning: one job and one checkpoint per step, from clean to noisy.
from ttsnap.stages import narf

PROCESSES = CONFIG.runtime.processes
# Through the environment, where Snakemake does not track it: the result is the same.
# --multi_gpu starts processes on CPUs, too, where --cpu leaves that to MPI. Port 0 is a free one.
os.environ.update(
    TTSNAP_LAUNCH=(
        f"accelerate launch --multi_gpu --num_processes {PROCESSES} --num_machines 1"
        " --main_process_port 0 --mixed_precision no --dynamo_backend no"
        " --num_cpu_threads_per_process 1"
        if PROCESSES > 1
        else "python"
    )
)


rule narf:
    input:
        train=trajectory_receipts("train"),
        val=trajectory_receipts("val"),
        train_rewards=f"{RUN}/rewards/{{reward}}/train.parquet",
        val_rewards=f"{RUN}/rewards/{{reward}}/val.parquet",
        cleaner=cleaner_checkpoint,
        preview=preview_receipt,
    output:
        f"{RUN}/narf/{{reward}}{{look}}/step_{{step}}.json",
    log:
        f"{RUN}/logs/narf/{{reward}}{{look}}/step_{{step}}.log",
    benchmark:
        f"{RUN}/benchmarks/narf/{{reward}}{{look}}/step_{{step}}.jsonl"
    priority: 2
    conda:
        lambda wildcards: environment("narf", wildcards.reward)
    threads: PROCESSES
    resources:
        nodes=1,  # Slurm may take its GPUs from several
        gpu=GPU * PROCESSES,
        gpu_job=GPU,
        mem_mb=scaled(16000 * PROCESSES),
        runtime=scaled(720),
    params:
        **reward_weights(),
        settings=lambda wildcards: leaves(
            reward=CONFIG.rewards[wildcards.reward],
            narf=CONFIG.narf.of(wildcards.reward),
            seed=CONFIG.seed,
            version=narf.VERSION,
        ),
        stores=[CONFIG.store("train"), CONFIG.store("val")],
        cleaner=lambda wildcards, input: repeated("--cleaner", input.cleaner),
        preview=preview_option,
    message:
        "Finetune {wildcards.reward}{wildcards.look} for step {wildcards.step}"
    shell:
        "$TTSNAP_LAUNCH -m ttsnap.stages.narf --settings {params.settings:q}"
        " --reward {wildcards.reward} --step {wildcards.step}"
        " --train-store {params.stores[0]:q} --val-store {params.stores[1]:q}"
        " --train-rewards {input.train_rewards:q} --val-rewards {input.val_rewards:q}"
        " {params.cleaner} {params.preview} --out {output:q} 2>&1 | tee {log:q}"


rule evaluate:
    input:
        base=f"{RUN}/tensors/{{reward}}{{look}}/test.base.json",
        finetuned=f"{RUN}/tensors/{{reward}}{{look}}/test.finetuned.json",
        drafts=lambda wildcards: (
            [] if wildcards.look else draft_receipts(wildcards.reward, "test")
        ),
    output:
        f"{RUN}/evaluation/{{reward}}{{look}}.csv",
    log:
        f"{RUN}/logs/evaluation/{{reward}}{{look}}.log",
    benchmark:
        f"{RUN}/benchmarks/evaluation/{{reward}}{{look}}.jsonl"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(30),
    params:
        source=source_hash(
            "ttsnap/narf/evaluate.py", "ttsnap/stats.py", "ttsnap/stages/evaluate.py"
        ),
        drafts=lambda wildcards, input: repeated("--drafts", input.drafts),
    message:
        "Evaluate the finetuned {wildcards.reward}{wildcards.look} on test"
    shell:
        "python -m ttsnap.stages.evaluate --base {input.base:q} --finetuned {input.finetuned:q}"
        " {params.drafts} --out {output:q} 2>&1 | tee {log:q}"
