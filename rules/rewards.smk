# Rewards of the stored images: ground truth on the final ones, tensors over all steps.
from ttsnap.stages import drafts, reward_cost, rewards, tensor


rule reward_cost:
    input:
        model=rules.model.output,
    output:
        f"{RUN}/rewards/{{reward}}/cost.json",
    log:
        f"{RUN}/logs/rewards/{{reward}}/cost.log",
    benchmark:
        f"{RUN}/benchmarks/rewards/{{reward}}/cost.jsonl"
    priority: 3
    conda:
        lambda wildcards: environment("reward", wildcards.reward)
    threads: 1
    resources:
        gpu=GPU if CONFIG.costs.unit == "seconds" else 0,
        gpu_job=GPU if CONFIG.costs.unit == "seconds" else 0,
        mem_mb=scaled(8000),
        runtime=scaled(30),
    params:
        **reward_weights(),
        settings=lambda wildcards: leaves(
            reward=CONFIG.rewards[wildcards.reward],
            model=CONFIG.model,
            sampling=CONFIG.sampling,
            costs=CONFIG.costs,
            version=reward_cost.VERSION,
        ),
    message:
        "Measure what searching with {wildcards.reward} costs"
    shell:
        "python -m ttsnap.stages.reward_cost --settings {params.settings:q}"
        " --reward {wildcards.reward} --model {input.model:q} --out {output:q} 2>&1 | tee {log:q}"


rule rewards:
    input:
        trajectories=lambda wildcards: trajectory_receipts(wildcards.split),
    output:
        f"{RUN}/rewards/{{reward}}/{{split}}.parquet",
    log:
        f"{RUN}/logs/rewards/{{reward}}/{{split}}.log",
    benchmark:
        f"{RUN}/benchmarks/rewards/{{reward}}/{{split}}.jsonl"
    priority: 1
    conda:
        lambda wildcards: environment("reward", wildcards.reward)
    threads: 1
    resources:
        gpu=GPU,
        gpu_job=GPU,
        mem_mb=scaled(16000),
        runtime=scaled(240),
    params:
        **reward_weights(),
        settings=lambda wildcards: leaves(
            reward=CONFIG.rewards[wildcards.reward],
            split=getattr(CONFIG.splits, wildcards.split),
            version=rewards.VERSION,
        ),
        store=lambda wildcards: CONFIG.store(wildcards.split),
    message:
        "Score the final images of {wildcards.split} with {wildcards.reward}"
    shell:
        "python -m ttsnap.stages.rewards --settings {params.settings:q}"
        " --store {params.store:q} --reward {wildcards.reward} --out {output:q} 2>&1 | tee {log:q}"


rule tensor_block:
    input:
        trajectories=lambda wildcards: tensor_jobs(wildcards.split)[int(wildcards.block)],
        checkpoints=tensor_checkpoints,
        preview=preview_receipt,
    output:
        f"{RUN}/tensors/{{reward}}{{look}}/{{split}}.{{kind}}/block_{{block}}.npy",
    log:
        f"{RUN}/logs/tensors/{{reward}}{{look}}/{{split}}.{{kind}}/block_{{block}}.log",
    benchmark:
        f"{RUN}/benchmarks/tensors/{{reward}}{{look}}/{{split}}.{{kind}}/block_{{block}}.jsonl"
    conda:
        lambda wildcards: environment("reward", wildcards.reward)
    threads: 1
    resources:
        gpu=GPU,
        gpu_job=GPU,
        mem_mb=scaled(16000),
        runtime=scaled(480),
    params:
        **reward_weights(),
        settings=lambda wildcards: leaves(
            reward=CONFIG.rewards[wildcards.reward],
            split=getattr(CONFIG.splits, wildcards.split),
            version=tensor.VERSION,
        ),
        store=lambda wildcards: CONFIG.store(wildcards.split),
        checkpoints=lambda wildcards, input: repeated("--checkpoint", input.checkpoints),
        preview=preview_option,
    message:
        "Score {wildcards.split} with the {wildcards.kind} {wildcards.reward}{wildcards.look}, block {wildcards.block}"
    shell:
        "python -m ttsnap.stages.tensor --settings {params.settings:q}"
        " --store {params.store:q} --reward {wildcards.reward} --block {wildcards.block}"
        " {params.checkpoints} {params.preview} --out {output:q} 2>&1 | tee {log:q}"


rule tensor:
    input:
        trajectories=lambda wildcards: trajectory_receipts(wildcards.split),
        checkpoints=tensor_checkpoints,
        preview=preview_receipt,
        blocks=tensor_blocks,
    output:
        f"{RUN}/tensors/{{reward}}{{look}}/{{split}}.{{kind}}.json",
    log:
        f"{RUN}/logs/tensors/{{reward}}{{look}}/{{split}}.{{kind}}.log",
    benchmark:
        f"{RUN}/benchmarks/tensors/{{reward}}{{look}}/{{split}}.{{kind}}.jsonl"
    conda:
        lambda wildcards: environment("reward", wildcards.reward)
    threads: 1
    resources:
        gpu=tensor_gpu,
        gpu_job=tensor_gpu,
        mem_mb=scaled(16000),
        runtime=scaled(480),
    params:
        **reward_weights(),
        settings=lambda wildcards: leaves(
            reward=CONFIG.rewards[wildcards.reward],
            split=getattr(CONFIG.splits, wildcards.split),
            version=tensor.VERSION,
        ),
        store=lambda wildcards: CONFIG.store(wildcards.split),
        checkpoints=lambda wildcards, input: repeated("--checkpoint", input.checkpoints),
        preview=preview_option,
    message:
        "Score every step of {wildcards.split} with the {wildcards.kind} {wildcards.reward}{wildcards.look}"
    shell:
        "python -m ttsnap.stages.tensor --settings {params.settings:q}"
        " --store {params.store:q} --reward {wildcards.reward}"
        " {params.checkpoints} {params.preview} --out {output:q} 2>&1 | tee {log:q}"


rule drafts:
    input:
        init=rules.trajectory_store.output,
    output:
        f"{RUN}/drafts/{{reward}}/{{split}}/block_{{block}}.json",
    log:
        f"{RUN}/logs/drafts/{{reward}}/{{split}}/block_{{block}}.log",
    benchmark:
        f"{RUN}/benchmarks/drafts/{{reward}}/{{split}}/block_{{block}}.jsonl"
    conda:
        lambda wildcards: environment("generate", wildcards.reward)
    threads: 1
    resources:
        gpu=GPU,
        gpu_job=GPU,
        mem_mb=scaled(16000),
        runtime=scaled(720),
    params:
        **reward_weights(),
        settings=lambda wildcards: leaves(
            model=CONFIG.model,
            sampling=CONFIG.sampling,
            draft=CONFIG.draft,
            reward=CONFIG.rewards[wildcards.reward],
            prompts=prompts_hash(block_prompts(wildcards.split, wildcards.block)),
            version=drafts.VERSION,
        ),
        store=lambda wildcards: CONFIG.store(wildcards.split),
    message:
        "Draft and score {wildcards.split} with {wildcards.reward}, block {wildcards.block}"
    shell:
        "python -m ttsnap.stages.drafts --settings {params.settings:q}"
        " --store {params.store:q} --reward {wildcards.reward} --block {wildcards.block}"
        " --out {output:q} 2>&1 | tee {log:q}"
