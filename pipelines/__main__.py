"""The command line: `python -m pipelines --help`. The stages' commands are what dvc.yaml calls."""

import logging
import os
import sys
from enum import StrEnum
from fnmatch import fnmatch
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from befa import config, tables
from befa.errors import BefaError, ConfigError, DataError, lookup
from befa.paths import Layout

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

Dataset = Annotated[str, typer.Argument(help="A key of `datasets` in params.yaml.")]
Encoder = Annotated[str, typer.Argument(help="A key of `encoders` in params.yaml.")]
Model = Annotated[str, typer.Argument(help="A key of `models` in params.yaml.")]
Adapter = Annotated[str, typer.Argument(help="A key of `adapters` in params.yaml.")]


class DeviceName(StrEnum):
    """Where to encode."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Device = Annotated[DeviceName | None, typer.Option(help="In place of params.yaml's encode.device.")]

Training = Annotated[
    DeviceName,
    typer.Option(help="Where to compute; auto: cuda where there is one. A seed's bits are the same on one device."),
]
Run = Annotated[Path | None, typer.Option(help="Folder of a trained run: data/runs/DATASET/ENCODER/MODEL/ADAPTER.")]
RunDataset = Annotated[str | None, typer.Option("--dataset", help="With the next three, in place of --run.")]
RunEncoder = Annotated[str | None, typer.Option("--encoder", help="A key of `encoders` in params.yaml.")]
RunModel = Annotated[str | None, typer.Option("--model", help="A key of `models` in params.yaml.")]
RunAdapter = Annotated[str | None, typer.Option("--adapter", help="A key of `adapters` in params.yaml.")]
Seed = Annotated[int | None, typer.Option(help="Of a run of several seeds; else its first.")]

STAGES = "Stages (what dvc.yaml calls; `dvc repro NAME` also runs what a stage needs)"
FLOWS = "Flows"
RESULTS = "Results"
SHOWN = 4
"""Targets that a line names."""


def stage(name: str, *arguments: str, **options: str | None) -> None:
    """Runs one stage's `run`. Imported here, not above: the command line stays quick, and torch loads only if used."""
    if name != "code":
        _check(*arguments)
    import_module(f"pipelines.stages.{name}").run(*arguments, Layout(), **options)


def stage_on(device: DeviceName, name: str, *arguments: str) -> None:
    """Runs a stage that computes on a device of the user's choice."""
    from befa.devices import device_for  # here: it loads torch

    stage(name, *arguments, device=device_for(device.value))


def _check(dataset: str | None = None, encoder: str | None = None, *of_model: str) -> None:
    """Raises ConfigError for a misspelt name, before a file is missed that it leads to."""
    params = config.read_params(Layout().params)
    for kind, name in (("dataset", dataset), ("encoder", encoder)):
        if name is not None:
            lookup(config.block(params, f"{kind}s"), name, kind)
    if of_model:
        from befa.adapters import ADAPTERS
        from befa.models import MODELS

        for (kind, known), name in zip((("model", MODELS), ("adapter", ADAPTERS)), of_model, strict=False):
            lookup(known, name, kind)


@app.command(rich_help_panel=STAGES)
def download(dataset: Dataset) -> None:
    """Fetch (or, for the demo, generate) a dataset's raw files."""
    stage("download", dataset)


@app.command(rich_help_panel=STAGES)
def filter(dataset: Dataset) -> None:
    """Window, unique pairs, k-core, dense ids; with a certificate of every round."""
    stage("filter", dataset)


@app.command(rich_help_panel=STAGES)
def split(dataset: Dataset) -> None:
    """Divide a dataset's interactions into train, valid and test."""
    stage("split", dataset)


@app.command(rich_help_panel=STAGES)
def media(dataset: Dataset) -> None:
    """Fetch the pictures that are on the web (those that failed, again); take over vectors made elsewhere."""
    stage("media", dataset)


@app.command(rich_help_panel=STAGES)
def encoder(dataset: Dataset, encoder: Encoder) -> None:
    """Train an encoder on a catalogue's own image-title pairs."""
    stage("encoder", dataset, encoder)


@app.command("encode_images", rich_help_panel=STAGES)
def encode_images(dataset: Dataset, encoder: Encoder, device: Device = None) -> None:
    """Encode the images that are new or changed into the feature store."""
    stage("encode_images", dataset, encoder, device=device and device.value)


@app.command("encode_texts", rich_help_panel=STAGES)
def encode_texts(dataset: Dataset, encoder: Encoder, device: Device = None) -> None:
    """Encode the texts that are new or changed into the feature store."""
    stage("encode_texts", dataset, encoder, device=device and device.value)


@app.command(rich_help_panel=STAGES)
def train(
    dataset: Dataset, encoder: Encoder, model: Model, adapter: Adapter, device: Training = DeviceName.auto
) -> None:
    """Train one cell: a model with an adapter on a dataset's features. A run that was killed is taken up."""
    stage_on(device, "train", dataset, encoder, model, adapter)


@app.command(rich_help_panel=STAGES)
def evaluate(
    dataset: Dataset, encoder: Encoder, model: Model, adapter: Adapter, device: Training = DeviceName.auto
) -> None:
    """Rank all items for every test user with a trained cell, and score the ranking."""
    stage_on(device, "evaluate", dataset, encoder, model, adapter)


@app.command(rich_help_panel=STAGES)
def tune(
    dataset: Dataset, encoder: Encoder, model: Model, adapter: Adapter, device: Training = DeviceName.auto
) -> None:
    """Search a cell's settings and its base's with equally many trials; the winners go into params.yaml."""
    stage_on(device, "tune", dataset, encoder, model, adapter)


@app.command(rich_help_panel=STAGES)
def attribute(
    dataset: Dataset, encoder: Encoder, model: Model, adapter: Adapter, device: Training = DeviceName.auto
) -> None:
    """Show where pictures speak for behaviour (BeCAM), without and with an adapter; drift and omission as numbers."""
    stage_on(device, "attribute", dataset, encoder, model, adapter)


@app.command(rich_help_panel=STAGES)
def sensitivity(dataset: Dataset, encoder: Encoder, model: Model, device: Training = DeviceName.auto) -> None:
    """Train BeFA at every width of its decoupling space, and once with a width that is learned."""
    stage_on(device, "sensitivity", dataset, encoder, model)


@app.command(rich_help_panel=STAGES)
def distribution(dataset: Dataset, encoder: Encoder, model: Model, adapter: Adapter) -> None:
    """Show how features lie before and after an adapter: t-SNE and density; uniformity and alignment as numbers."""
    stage("distribution", dataset, encoder, model, adapter)


@app.command("train_befa", rich_help_panel=STAGES)
def train_befa(dataset: Dataset, encoder: Encoder) -> None:
    """Print and store base, +BeFA and gain per model and metric."""
    stage("train_befa", dataset, encoder)


@app.command("table_3", rich_help_panel=STAGES)
def table_3(dataset: Dataset, encoder: Encoder) -> None:
    """Print and store base, +LoRA, +SoftPrompt, +BeFA and BeFA over the best of the others, per model and metric."""
    stage("table_3", dataset, encoder)


@app.command("table_1", rich_help_panel=STAGES)
def table_1(dataset: Dataset) -> None:
    """Print and store a dataset's sizes beside the paper's Table 1, and what every step of the filter left."""
    stage("table_1", dataset)


@app.command(rich_help_panel=STAGES)
def overlap(dataset: Dataset) -> None:
    """Print and store how far encoders, and image and text, agree on which items are near each other."""
    stage("overlap", dataset)


@app.command(rich_help_panel=STAGES)
def report() -> None:
    """Write tables 1 to 4, controls, tests and figures as they stand, and what is missing, as HTML, Markdown, LaTeX."""
    stage("report")


@app.command(rich_help_panel=STAGES)
def code(stage_name: Annotated[str, typer.Argument(help="A stage, such as train.")]) -> None:
    """Write the hashes of the code that all cells of a stage share."""
    stage("code", stage_name)


@app.command(rich_help_panel=RESULTS)
def show(dataset: Dataset) -> None:
    """Print a dataset's tables again: its sizes, who is near whom, and BeFA's result."""
    from pipelines import show_befa, show_overlap, show_table_1

    _check(dataset)
    folder = Layout().report(dataset)
    sizes, overlap, result = (folder / f"{name}.json" for name in ("table_1", "overlap", "befa"))
    if sizes.exists():
        show_table_1.show(tables.read_json(sizes))
    if overlap.exists():
        show_overlap.show(tables.read_json(overlap))
    if result.exists():
        show_befa.show(tables.read_json(result), folder / "befa.md")
    elif sizes.exists() or overlap.exists():
        logging.getLogger("pipelines").info("no result of BeFA yet: dvc repro train_befa@%s", dataset)
    else:
        raise DataError("no result yet", where=folder, mend=f"dvc repro train_befa@{dataset}")


@app.command(rich_help_panel=RESULTS)
def cell(
    figure: Annotated[str, typer.Argument(help="As in the report: table2/hm/clip/bm3+befa/recall@20.")],
) -> None:
    """One figure of the experiment, the published one beside it, its command, and every hash it was made from."""
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
    from pipelines import compare_encoders as comparing

    comparing.show(first, second, dataset, layout=Layout(), sample=sample)


@app.command(rich_help_panel=RESULTS)
def adopt(dataset: Dataset, encoder: Encoder, model: Model, adapter: Adapter) -> None:
    """Write a tuning's winners into params.yaml again, where DVC brought its result back without running it."""
    from pipelines.stages import tune as tuning

    _check(dataset, encoder, model, adapter)
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
    from pipelines import add_cells as adding

    added = adding.add(Layout(), dataset, encoder, model or (), adapter or (), controls=controls, studies=studies)
    typer.echo("\n".join(f"added {name}" for name in added) or "nothing to add: all of them are listed")


@app.command(rich_help_panel=RESULTS)
def check(dataset: Dataset) -> None:
    """Say what is still missing to run a dataset: files, accounts, weights, disk, parameters. Asks no network."""
    from pipelines import check as checking

    checking.show(dataset, checking.needs(dataset, Layout()))


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
    from pipelines import graph, show_befa  # here, not above: DVC and Prefect take seconds to load

    plan = graph.plan(targets, force=force)
    if plan.steps:
        from pipelines import flows

        flows.run(targets, jobs=jobs, gpu_jobs=gpu_jobs, force=force)
    else:
        named = (
            " ".join(targets)
            if len(targets) <= SHOWN
            else f"{' '.join(targets[:SHOWN])} and {len(targets) - SHOWN} more"
        )
        typer.echo(f"up to date: all {plan.size} stages of {named}")
    for path in (Path(out) for out in plan.results if fnmatch(out, "data/reports/*/befa.json")):
        show_befa.show(tables.read_json(path), path.with_suffix(".md"))


@app.command(rich_help_panel=FLOWS)
def verify(targets: Annotated[list[str] | None, typer.Argument(help="DVC stages; none: all of them.")] = None) -> None:
    """Read DVC's cache: what is damaged is named and removed. DVC itself trusts it."""
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


def main() -> int:
    """Runs the command line; the exit code is 1 after an error a user can mend, printed in one line."""
    handler = RichHandler(console=Console(stderr=True), show_path=False)
    for name in ("befa", "pipelines"):  # not the root: other libraries' logs are theirs to configure
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal of another encoding: a title is shown as far as it can
    for argument in sys.argv:
        try:
            argument.encode()
        except UnicodeEncodeError:
            return _told(f"the argument {argument!r} is not text in UTF-8; write it in UTF-8")
    try:
        app()
    except BefaError as error:
        return _told(str(error))
    except SystemExit as end:
        if end.code == INTERRUPTED:
            Console(stderr=True).print("interrupted", style="bold red")
        raise
    except BrokenPipeError:  # what this is piped into has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f" in {error.filename}" if error.filename else ""
        return _told(f"{error.strerror or error}{where}; see to the disk, the path and its rights")
    return 0


def _told(error: str) -> int:
    Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="bold red", markup=False, highlight=False)
    return 1


if __name__ == "__main__":
    sys.exit(main())
