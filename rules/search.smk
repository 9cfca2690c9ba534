# Live search on the test prompts, every method at the same budgets.
from ttsnap.stages import search


rule search:
    input:
        model=rules.model.output,
        reward_cost=f"{RUN}/rewards/{CONFIG.search.reward}/cost.json",
        checkpoints=search_checkpoints,
        preview=search_preview,
        plan=search_plan,
    output:
        f"{RUN}/search/{{method}}/block_{{block}}.parquet",
    log:
        f"{RUN}/logs/search/{{method}}/block_{{block}}.log",
    benchmark:
        f"{RUN}/benchmarks/search/{{method}}/block_{{block}}.jsonl"
    conda:
        environment("generate", *filter(None, [CONFIG.search.reward, CONFIG.search.judge_reward]))
    threads: 1
    resources:
        gpu=GPU,
        gpu_job=GPU,
        mem_mb=scaled(16000),
        runtime=scaled(720),
    params:
        **weights(CONFIG.rewards[CONFIG.search.reward], *filter(None, [JUDGE])),
        settings=lambda wildcards: leaves(
            model=CONFIG.model,
            sampling=CONFIG.sampling,
            split=CONFIG.splits.test,
            seed=CONFIG.seed,
            reward=CONFIG.rewards[CONFIG.search.reward],
            reward_name=CONFIG.search.reward,
            budgets=CONFIG.search.budgets,
            options=CONFIG.search.options.get(wildcards.method, {}),
            prompts_per_job=CONFIG.search.prompts_per_job,
            judge_reward=JUDGE,
            judge_reward_name=CONFIG.search.judge_reward,
            judge=CONFIG.judge,
            pictured=max(CONFIG.report.prompts, GALLERY),
            prompts=prompts_hash(PROMPTS["test"]),
            version=search.version_of(method_of(wildcards.method)[0].name),
        ),
        checkpoints=lambda wildcards, input: repeated("--checkpoint", input.checkpoints),
        plan=lambda wildcards, input: repeated("--plan", input.plan),
        preview=preview_option,
    message:
        "Search live with {wildcards.method} on test prompts, block {wildcards.block}"
    shell:
        "python -m ttsnap.stages.search --settings {params.settings:q}"
        " --method {wildcards.method} --block {wildcards.block} --model {input.model:q}"
        " --reward-cost {input.reward_cost:q} {params.checkpoints} {params.plan}"
        " {params.preview}"
        " --out {output:q} 2>&1 | tee {log:q}"
