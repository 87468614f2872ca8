"""One command per stage of dvc.yaml, which calls them."""

from importlib import import_module
from typing import Annotated

import typer

from befa.paths import Layout
from pipelines.commands import loading
from pipelines.commands.arguments import Adapter, Dataset, Device, DeviceName, Encoder, Model, Training, require_names

app = typer.Typer()
STAGES = "Stages (what dvc.yaml calls; `dvc repro NAME` also runs what a stage needs)"


def stage(name: str, *arguments: str, **options: str | None) -> None:
    """Runs one stage's `run`. Imported here, not above: the command line stays quick, and torch loads only if used."""
    with loading():
        if name != "code":
            require_names(*arguments)
        run = import_module(f"pipelines.stages.{name}").run
    run(*arguments, Layout(), **options)


def stage_on(device: DeviceName, name: str, *arguments: str) -> None:
    """Runs a stage that computes on a device of the user's choice."""
    with loading():
        from befa.devices import device_for  # here: it loads torch

    stage(name, *arguments, device=device_for(device.value))


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
