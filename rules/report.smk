# Figures and numbers of a run, and the page that shows them.
REWARD = CONFIG.search.reward
SEARCH_BLOCKS = block_names(len(PROMPTS["test"]), CONFIG.search.prompts_per_job)
METRICS = ["reward", *["held_out"] * bool(JUDGE), *["oracle"] * bool(CONFIG.judge), "diversity"]
# Of two methods, curves over compute would repeat what the comparisons show.
CURVES = METRICS if len(CONFIG.search.methods) > 2 else ["diversity"]
CHARTS = [
    *[
        "live",
        "rank_consistency",
        "looks",
        "reward_vs_budget",
        "omega",
        "schedules",
        "costs",
        "stages",
    ],
    *["reward_by_compute", "reward_by_seconds"],
    *[f"training{look}" for look in LOOKS],
    *[metric for metric in METRICS if metric in ("held_out", "oracle")],
    *[f"compute_{metric}" for metric in CURVES],
]


rule report:
    input:
        model=rules.model.output,
        trajectories=trajectory_receipts("test"),
        costs=expand(f"{RUN}/rewards/{{reward}}/cost.json", reward=REWARDS),
        checkpoints=[receipt for look in LOOKS for receipt in checkpoint_receipts(REWARD, look)],
        tensors=tensors(REWARD, "test", "base") + tensors(REWARD, "test", "finetuned"),
        evaluation=expand(f"{RUN}/evaluation/{{reward}}{{look}}.csv", reward=REWARDS, look=LOOKS),
        plan=f"{RUN}/plan/{REWARD}.json",
        curves=expand(f"{RUN}/simulation/{{reward}}/curves.csv", reward=REWARDS),
        search=expand(
            f"{RUN}/search/{{method}}/block_{{block}}.parquet",
            method=CONFIG.search.methods,
            block=SEARCH_BLOCKS,
        ),
    output:
        live=figure("live.png", "Live search", "live.rst"),
        rank_consistency=figure(
            "rank_consistency.png", "Noise-aware reward", "rank_consistency.rst"
        ),
        looks=figure("looks.png", "Noise-aware reward", "looks.rst"),
        training=[
            figure(f"training{look}.png", "Noise-aware reward", "training.rst") for look in LOOKS
        ],
        reward_vs_budget=figure("reward_vs_budget.png", "Simulation", "reward_vs_budget.rst"),
        omega=figure("omega.png", "Simulation", "omega.rst"),
        schedules=figure("schedules.png", "Simulation", "schedules.rst"),
        costs=figure("costs.png", "Simulation", "costs.rst"),
        stages=figure("stages.png", "Run", "stages.rst"),
        contact=figure("contact.png", "Live search", "contact.rst"),
        trajectories=[
            figure(f"trajectories_{number + 1}.png", "Trajectories", "trajectories.rst")
            for number in range(CONFIG.report.prompts)
        ],
        judged=[
            figure(f"{metric}.png", "Live search", f"{metric}.rst")
            for metric in METRICS
            if metric in ("held_out", "oracle")
        ],
        compute=[figure(f"compute_{metric}.png", "Live search", "compute.rst") for metric in CURVES],
        vectors=expand(f"{RUN}/report/{{chart}}.svg", chart=CHARTS),
        gallery=figure("gallery.png", "Live search", "gallery.rst"),
        results=f"{RUN}/search/results.parquet",
        took=f"{RUN}/report/stages.csv",
        summary=report(
            f"{RUN}/summary.json",
            category="Summary",
            caption="../workflow/report/summary.rst",
        ),
    log:
        f"{RUN}/logs/report.log",
    benchmark:
        f"{RUN}/benchmarks/report.jsonl"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(30),
    params:
        settings=leaves(
            report=CONFIG.report,
            budget=CONFIG.search.budgets[-1],
            methods=CONFIG.search.methods,
            blocks=len(SEARCH_BLOCKS),
            reward=REWARD,
            looks=LOOKS,
            judge_reward=CONFIG.search.judge_reward,
            metrics=METRICS,
            curves=CURVES,
            prompt_ids=[prompt.id for prompt in PROMPTS["test"][: CONFIG.report.prompts]],
        ),
        run=lambda wildcards, output: Path(output.summary).parent.as_posix(),
        store=CONFIG.store("test"),
        checkpoints=lambda wildcards, input: repeated("--checkpoint", input.checkpoints),
        source=source_hash(
            "ttsnap/drawing/*.py",
            "ttsnap/report/**/*.py",
            "ttsnap/run/status.py",
            "ttsnap/run/workload.py",
            "ttsnap/stages/report.py",
        ),
    message:
        "Draw the figures and sum up"
    shell:
        "python -m ttsnap.stages.report --settings {params.settings:q} --folder {params.run:q}"
        " --store {params.store:q} {params.checkpoints} --out {output.summary:q} 2>&1 | tee {log:q}"


rule page:
    input:
        rules.report.output,
    output:
        f"{RUN}/report.html",
    log:
        f"{RUN}/logs/page.log",
    benchmark:
        f"{RUN}/benchmarks/page.jsonl"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(30),
    params:
        source=source_hash("ttsnap/report/*.*", "ttsnap/stages/page.py"),
    message:
        "Write the page"
    shell:
        "python -m ttsnap.stages.page --out {output:q} 2>&1 | tee {log:q}"
