"""The graph as Prefect flows, and DVC's cache."""

from pathlib import Path
from typing import Annotated

import typer

from befa import tables
from befa.errors import ConfigError
from befa.paths import Layout
from pipelines.commands import loading

app = typer.Typer()
FLOWS = "Flows"
SHOWN = 4
"""Targets that a line names."""


@app.command(rich_help_panel=FLOWS)
def run(
    targets: Annotated[
        list[str], typer.Argument(help="DVC stages, such as train_befa@demo; or train_befa: all of it.")
    ],
    jobs: Annotated[int, typer.Option(min=1, help="How many stages at a time.")] = 2,
    gpu_jobs: Annotated[
        int | None, typer.Option(min=1, help="How many of them encode or train; one where there is a GPU.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run everything that the targets need.")] = False,
) -> None:
    """Bring DVC targets up to date as a Prefect flow, one task per stage that is not."""
    with loading():
        from pipelines import graph, show_befa  # here, not above: DVC and Prefect take seconds to load

    plan = graph.plan(targets, force=force)
    if plan.steps:
        with loading():
            from pipelines import flows

        flows.run(targets, jobs=jobs, gpu_jobs=gpu_jobs, force=force)
    else:
        named = (
            " ".join(targets)
            if len(targets) <= SHOWN
            else f"{' '.join(targets[:SHOWN])} and {len(targets) - SHOWN} more"
        )
        typer.echo(f"up to date: all {plan.size} stages of {named}")
    for path in map(Path, plan.results):
        if path == Layout().table(path.parent.name, "befa"):
            show_befa.show(tables.read_json(path), path.with_suffix(".md"))


@app.command(rich_help_panel=FLOWS)
def verify(targets: Annotated[list[str] | None, typer.Argument(help="DVC stages; none: all of them.")] = None) -> None:
    """Read DVC's cache: what is damaged is named and removed. DVC itself trusts it."""
    with loading():
        from pipelines import verify as verifying

    checked = verifying.verify(targets or ())
    typer.echo(f"{checked.objects:,} objects, {checked.bytes / 1e6:,.1f} MB: all whole")


@app.command(rich_help_panel=FLOWS)
def serve(
    dataset: Annotated[str | None, typer.Option(help="To encode anew by schedule; with --encoder.")] = None,
    encoder: Annotated[str | None, typer.Option()] = None,
    cron: Annotated[
        str | None, typer.Option(help="When (UTC): minute, hour, day, month, weekday. None given: 0 3 * * *.")
    ] = None,
    every: Annotated[float | None, typer.Option(min=1, help="In place of cron: seconds from start to start.")] = None,
    push: Annotated[bool, typer.Option("--push", help="Push the features to DVC's remote afterwards.")] = False,
    port: Annotated[int, typer.Option(help="Of the server and its UI.", min=1, max=65535)] = 4200,
) -> None:
    """Run Prefect's server and UI with the deployments `reproduce` and `reencode`, until Ctrl-C."""
    with loading():
        from pipelines import graph, serving

    reencoded = None
    if dataset is not None and encoder is not None:
        reencoded = (dataset, encoder)
        graph.plan([f"encode_images@{dataset}-{encoder}"])  # a misspelt name is an error now, not at three at night
    elif dataset is not None or encoder is not None:
        raise ConfigError("one of --dataset and --encoder without the other", mend="give both, or none")
    elif cron is not None or every is not None or push:
        raise ConfigError("--cron, --every and --push are of a reencoding", mend="give --dataset and --encoder too")
    if cron is not None and every is not None:
        raise ConfigError("both --cron and --every", mend="give one of them")
    serving.serve(port, reencoded, cron=cron or "0 3 * * *", every=every, push=push)
