# Strategies replayed on the test tensors.


rule simulate:
    input:
        model=rules.model.output,
        reward_cost=rules.reward_cost.output,
        base=f"{RUN}/tensors/{{reward}}/test.base.json",
        finetuned=f"{RUN}/tensors/{{reward}}/test.finetuned.json",
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
        mem_mb=4000,
        runtime=30,
    params:
        settings=leaves(simulation=CONFIG.simulation, seed=CONFIG.seed),
        source=source_hash("ttsnap/simulation/*.py", "ttsnap/stages/simulate.py"),
    message:
        "Simulate best-of-N, TTSp and TTSnap with {wildcards.reward} on test"
    shell:
        "python -m ttsnap.stages.simulate --settings {params.settings:q} --model {input.model:q}"
        " --reward-cost {input.reward_cost:q} --base {input.base:q}"
        " --finetuned {input.finetuned:q} --curves {output.curves:q} --omega {output.omega:q}"
        " 2>&1 | tee {log:q}"
