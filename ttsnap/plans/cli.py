"""The command ``ttsnap plans``."""

from __future__ import annotations

from dataclasses import asdict

from ttsnap.table_cli import AsJson, plain_table, print_json

SHOWN = 8  # full runs, of the budget whose checks are shown


def plans_command(
    as_json: AsJson = False,
) -> None:
    """List the schedules that come with the package, which a search takes where it has no plan.

    Checks are placed by their noise, whatever the number of steps; how many images a budget starts
    follows from your own prices. What a schedule gained was measured on prompts that it was not
    chosen on, on the model, size and steps named here, and not on yours.
    """
    from rich.console import Console

    from ttsnap.plans import DEFAULT, templates

    if as_json:
        print_json([asdict(one) for one in templates().values()])
        return
    table = plain_table("plan", "family", "reward")
    table.add_column("same reward at")
    table.add_column(f"checks at {SHOWN} full runs: noise, share kept")
    table.add_column("measured on")
    for one in templates().values():
        share, low, high = (100 * value for value in one.compute)
        if one.plans:
            (shown,) = (plan for plan in one.plans if plan["runs"] == SHOWN)
            checks = ", ".join(
                f"{check['noise']:.2f}: {check['keep']:g}" for check in shown["checks"]
            )
        else:
            checks = ", ".join(f"after {part:.0%} of the steps: {keep:g}" for part, keep in DEFAULT)
        compute = f"{share:.0f} % [{low:.0f}, {high:.0f}] of the compute"
        table.add_row(one.name, one.family, one.reward, compute, checks, one.measured_on)
    console = Console()
    console.print(table)
    console.print(
        "\nCompute is that of best-of-N, with 95 % intervals over prompts that nothing was chosen "
        "on, by the reward tensors released with TTSnap (arXiv 2511.22242). Any other model or "
        "reward gets the default; `ttsnap plan` plans on rewards of your own.",
        style="dim",
        highlight=False,
    )
