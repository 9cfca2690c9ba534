# Schedules chosen on the val tensors, and strategies replayed with them on the test tensors.
CHECKS = CONFIG.model_dump(mode="json")["simulation"]["checks"]


# Before the jobs that take long: what it refuses is known as soon as prices are.
rule budgets:
    input:
        model=rules.model.output,
        reward_cost=rules.reward_cost.output,
    output:
        f"{RUN}/rewards/{{reward}}/budgets.json",
    log:
        f"{RUN}/logs/rewards/{{reward}}/budgets.log",
    benchmark:
        f"{RUN}/benchmarks/rewards/{{reward}}/budgets.jsonl"
    priority: 3
    localrule: True
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(10),
    params:
        settings=leaves(
            checks=CHECKS,
            budgets={
                "simulation": CONFIG.simulation.budgets,
                "search": CONFIG.search.budgets,
            },
            images={"val": CONFIG.splits.val.images, "test": CONFIG.splits.test.images},
        ),
    message:
        "See that the stored images serve the budgets of searching with {wildcards.reward}"
    shell:
        "python -m ttsnap.stages.budgets --settings {params.settings:q} --model {input.model:q}"
        " --reward-cost {input.reward_cost:q} --out {output:q} 2>&1 | tee {log:q}"


rule plan:
    input:
        budgets=rules.budgets.output,
        model=rules.model.output,
        reward_cost=rules.reward_cost.output,
        base=lambda wildcards: tensors(wildcards.reward, "val", "base"),
        finetuned=lambda wildcards: tensors(wildcards.reward, "val", "finetuned"),
        drafts=lambda wildcards: draft_receipts(wildcards.reward, "val"),
    output:
        f"{RUN}/plan/{{reward}}.json",
    log:
        f"{RUN}/logs/plan/{{reward}}.log",
    benchmark:
        f"{RUN}/benchmarks/plan/{{reward}}.jsonl"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(60),
    params:
        settings=lambda wildcards: leaves(
            checks=CHECKS,
            budgets=sorted({*CONFIG.simulation.budgets, *CONFIG.search.budgets}),
            accounting=CONFIG.simulation.accounting,
            steps=CONFIG.splits.test.stored(CONFIG.sampling.steps),
            seed=CONFIG.seed,
            model=CONFIG.model,
            sampling=CONFIG.sampling,
            reward=CONFIG.rewards[wildcards.reward],
            draft=CONFIG.draft,
        ),
        source=source_hash(
            "ttsnap/simulation/*.py",
            "ttsnap/stats.py",
            "ttsnap/schedule.py",
            "ttsnap/stages/plan.py",
        ),
        rewards=experiment_options,
    message:
        "Plan TTSp and TTSnap with {wildcards.reward} on val"
    shell:
        "python -m ttsnap.stages.plan --settings {params.settings:q} --reward {wildcards.reward}"
        " --model {input.model:q} --reward-cost {input.reward_cost:q} {params.rewards}"
        " --out {output:q} 2>&1 | tee {log:q}"


rule simulate:
    input:
        model=rules.model.output,
        reward_cost=rules.reward_cost.output,
        base=lambda wildcards: tensors(wildcards.reward, "test", "base"),
        finetuned=lambda wildcards: tensors(wildcards.reward, "test", "finetuned"),
        drafts=lambda wildcards: draft_receipts(wildcards.reward, "test"),
        plan=rules.plan.output,
    output:
        curves=f"{RUN}/simulation/{{reward}}/curves.csv",
        omega=f"{RUN}/simulation/{{reward}}/omega.csv",
    log:
        f"{RUN}/logs/simulation/{{reward}}.log",
    benchmark:
        f"{RUN}/benchmarks/simulation/{{reward}}.jsonl"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(30),
    params:
        settings=leaves(
            budgets=CONFIG.simulation.budgets,
            draws=CONFIG.simulation.draws,
            accounting=CONFIG.simulation.accounting,
            seed=CONFIG.seed,
        ),
        source=source_hash(
            "ttsnap/simulation/*.py",
            "ttsnap/stats.py",
            "ttsnap/schedule.py",
            "ttsnap/stages/simulate.py",
        ),
        rewards=experiment_options,
    message:
        "Simulate best-of-N, TTSp and TTSnap with {wildcards.reward} on test"
    shell:
        "python -m ttsnap.stages.simulate --settings {params.settings:q}"
        " --reward {wildcards.reward} --model {input.model:q}"
        " --reward-cost {input.reward_cost:q} {params.rewards} --plan {input.plan:q}"
        " --curves {output.curves:q} --omega {output.omega:q} 2>&1 | tee {log:q}"
