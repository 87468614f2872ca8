"""Arguments and options that several commands have."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from befa import config
from befa.errors import lookup
from befa.paths import Layout

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


def require_names(dataset: str | None = None, encoder: str | None = None, *of_model: str) -> None:
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
