"""What has come out, and what to do with it."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from befa import tables
from befa.errors import DataError
from befa.paths import Layout
from pipelines.commands import loading
from pipelines.commands.arguments import (
    Adapter,
    Dataset,
    Encoder,
    Model,
    Run,
    RunAdapter,
    RunDataset,
    RunEncoder,
    RunModel,
    Seed,
    require_names,
)

app = typer.Typer()
RESULTS = "Results"


@app.command(rich_help_panel=RESULTS)
def show(dataset: Dataset) -> None:
    """Print a dataset's tables again: its sizes, who is near whom, and BeFA's result."""
    with loading():
        from pipelines import show_befa, show_overlap, show_table_1

    require_names(dataset)
    layout = Layout()
    sizes, overlap, result = (layout.table(dataset, name) for name in ("table_1", "overlap", "befa"))
    if sizes.exists():
        show_table_1.show(tables.read_json(sizes))
    if overlap.exists():
        show_overlap.show(tables.read_json(overlap))
    if result.exists():
        show_befa.show(tables.read_json(result), result.with_suffix(".md"))
    elif sizes.exists() or overlap.exists():
        logging.getLogger("pipelines").info("no result of BeFA yet: dvc repro train_befa@%s", dataset)
    else:
        raise DataError("no result yet", where=layout.report(dataset), mend=f"dvc repro train_befa@{dataset}")


@app.command(rich_help_panel=RESULTS)
def cell(
    figure: Annotated[str, typer.Argument(help="As in the report: table2/hm/clip/bm3+befa/recall@20.")],
) -> None:
    """One figure of the experiment, the published one beside it, its command, and every hash it was made from."""
    with loading():
        from pipelines import cell as showing

    showing.show(figure, Layout())


@app.command(rich_help_panel=RESULTS)
def similar(
    dataset: Annotated[str, typer.Option(help="A key of `datasets` in params.yaml.")],
    encoder: Annotated[str, typer.Option(help="A key of `encoders` in params.yaml.")],
    item: Annotated[str | None, typer.Option(help="Items like this one (its raw id).")] = None,
    text: Annotated[str | None, typer.Option(help="Items that fit this text.")] = None,
    by: Annotated[str, typer.Option(help="Which vectors are searched: image or text.")] = "image",
    k: Annotated[int, typer.Option(help="How many.")] = 10,
) -> None:
    """Items nearest to an item or to a text, by the cosine of their vectors."""
    with loading():
        from pipelines import similar as searching

    searching.show(dataset, encoder, item=item, text=text, by=by, k=k, layout=Layout())


@app.command(rich_help_panel=RESULTS)
def recommend(
    run: Run = None,
    dataset: RunDataset = None,
    encoder: RunEncoder = None,
    model: RunModel = None,
    adapter: RunAdapter = None,
    user: Annotated[list[str] | None, typer.Option(help="A raw user id; may be given several times.")] = None,
    users: Annotated[Path | None, typer.Option(help="File of raw user ids, one a line; after those of --user.")] = None,
    k: Annotated[int, typer.Option(help="How many items.")] = 20,
    seed: Seed = None,
    include_known: Annotated[bool, typer.Option("--include-known", help="Keep items that the user has.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="File to write in place of printing: .parquet, .csv or .json; without users named, of all."),
    ] = None,
) -> None:
    """The best items for users, from a trained run.

    Ids are texts: to read a CSV with pandas, give dtype=str for user and item, or leading zeros are lost.
    """
    with loading():
        from pipelines import recommend as recommending

    layout = Layout()
    names = {"dataset": dataset, "encoder": encoder, "model": model, "adapter": adapter}
    folder, options = recommending.folder_of(layout, run, names), {"k": k, "seed": seed, "include_known": include_known}
    asked = [*(user or []), *(recommending.users_in(users) if users is not None else [])]
    if output is None:
        recommending.show(layout, folder, asked, **options)
    else:
        count = recommending.write(layout, folder, output, asked, **options)
        typer.echo(f"{output}: {count:,} users")


@app.command("export-vectors", rich_help_panel=RESULTS)
def export_vectors(
    output: Annotated[Path, typer.Option(help="Folder for users.parquet and items.parquet.")],
    run: Run = None,
    dataset: RunDataset = None,
    encoder: RunEncoder = None,
    model: RunModel = None,
    adapter: RunAdapter = None,
    seed: Seed = None,
) -> None:
    """User and item vectors of a trained run for other systems: a score is the dot product of the two.

    Two Parquet files, of columns user and item (raw ids), each with `vector`, a fixed-size list of float32. `recommend`
    leaves out what a user has; whoever searches the vectors does so by himself.
    """
    with loading():
        from pipelines import recommend as recommending

    layout = Layout()
    names = {"dataset": dataset, "encoder": encoder, "model": model, "adapter": adapter}
    users, items = recommending.export(layout, recommending.folder_of(layout, run, names), output, seed=seed)
    typer.echo(f"{output}: {users:,} users and {items:,} items")


@app.command("compare-encoders", rich_help_panel=RESULTS)
def compare_encoders(
    first: Encoder,
    second: Encoder,
    dataset: Annotated[str, typer.Option(help="Whose pictures and texts are the sample.")] = "demo",
    sample: Annotated[int, typer.Option(help="How many items.", min=1)] = 500,
) -> None:
    """Whether two encoders give the same vectors on a sample of a dataset."""
    with loading():
        from pipelines import compare_encoders as comparing

    comparing.show(first, second, dataset, layout=Layout(), sample=sample)


@app.command(rich_help_panel=RESULTS)
def adopt(dataset: Dataset, encoder: Encoder, model: Model, adapter: Adapter) -> None:
    """Write a tuning's winners into params.yaml again, where DVC brought its result back without running it."""
    with loading():
        from pipelines.stages import tune as tuning

    require_names(dataset, encoder, model, adapter)
    tuning.adopt(dataset, encoder, model, adapter, Layout())


@app.command("add-cells", rich_help_panel=RESULTS)
def add_cells(
    dataset: Dataset,
    encoder: Encoder,
    model: Annotated[list[str] | None, typer.Option(help="May be given several times; else the paper's four.")] = None,
    adapter: Annotated[list[str] | None, typer.Option(help="May be given several times; else none and befa.")] = None,
    controls: Annotated[bool, typer.Option("--controls", help="Also BeFA's controls.")] = False,
    studies: Annotated[
        bool, typer.Option("--studies", help="Also tuning, sensitivity, distribution and heatmaps of adapted cells.")
    ] = False,
) -> None:
    """List more cells in pipelines/cells.yaml: their stages are then in the graph."""
    with loading():
        from pipelines import add_cells as adding

    added = adding.add(Layout(), dataset, encoder, model or (), adapter or (), controls=controls, studies=studies)
    typer.echo("\n".join(f"added {name}" for name in added) or "nothing to add: all of them are listed")


@app.command(rich_help_panel=RESULTS)
def check(dataset: Dataset) -> None:
    """Say what is still missing to run a dataset: files, accounts, weights, disk, parameters. Asks no network."""
    with loading():
        from pipelines import check as checking

    checking.show(dataset, checking.needs(dataset, Layout()))
