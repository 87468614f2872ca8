"""More cells of the experiment: the lines of pipelines/cells.yaml that the graph is made of."""

from collections.abc import Mapping, Sequence
from typing import Any

from befa import config
from befa.adapters import ADAPTERS
from befa.cell_names import LEADERS, cell_name, group_of, host_name
from befa.cells import Cell, FeaturesConfig
from befa.errors import lookup
from befa.models import MODELS
from befa.paths import Layout
from befa.report.published import HOSTS
from pipelines.params_file import change

NAMES = ("dataset", "encoder", "model", "adapter")


def add(
    layout: Layout,
    dataset: str,
    encoder: str,
    models: Sequence[str] = (),
    adapters: Sequence[str] = (),
    *,
    controls: bool = False,
    studies: bool = False,
) -> list[str]:
    """Lists what is not listed yet: the encoding, a cell for each model and adapter; returns the new lines' names.

    Without `models` the paper's four, without `adapters` none and befa; with `controls` those of BeFA too. Controls
    have a block of their own. With `studies` also what is made of these cells: see `_studies`. Raises ConfigError for
    an unknown name, and for a dataset, model or adapter without its blocks in params.yaml.
    """
    params = config.read_params(layout.params)
    for kind, name in (("dataset", dataset), ("encoder", encoder)):
        lookup(config.block(params, f"{kind}s"), name, kind)
    for model in models:
        lookup(MODELS, model, "model")
    for adapter in adapters:
        lookup(ADAPTERS, adapter, "adapter")
    lists = config.read_params(layout.cells)
    edits = _encoding(params, lists, dataset, encoder)
    tuned: dict[tuple[str, ...], Any] = {}
    for model in models or HOSTS:
        for adapter in dict.fromkeys([*(adapters or ("none", "befa")), *(LEADERS if controls else ())]):
            names = (dataset, encoder, model, adapter)
            Cell.from_params(params, *names)
            group = group_of(adapter)
            wanted = {(group, cell_name(*names)): dict(zip(NAMES, names, strict=True))}
            if studies and group == "cells":
                wanted |= _studies(params, *names)
            edits |= {at: line for at, line in wanted.items() if at[1] not in (lists.get(at[0]) or {})}
        if host_name(dataset, encoder, model) not in (params.get("tuned") or {}):
            tuned["tuned", host_name(dataset, encoder, model)] = {}  # DVC wants the parameter to be there
    change(layout.params, tuned)
    change(layout.cells, edits)
    return [f"{group}.{name}" for group, name in edits]


def _studies(
    params: Mapping[str, Any], dataset: str, encoder: str, model: str, adapter: str
) -> dict[tuple[str, str], dict[str, str]]:
    """Of an adapted cell: its tuning, the distribution of its features, and heatmaps where the encoder has maps to show
    and the dataset pictures; of one with BeFA, its host's sensitivity to the width."""
    if adapter == "none":
        return {}
    line = dict(zip(NAMES, (dataset, encoder, model, adapter), strict=True))
    name = cell_name(*line.values())
    found = {("tune", name): line, ("distributions", name): line}
    pictured = "image" in config.load(params, f"features.{dataset}", FeaturesConfig).modalities
    if pictured and config.load(params, f"encoders.{encoder}.kind", str) == "open_clip":
        found["attribute", name] = line
    if adapter == "befa":
        found["sensitivities", host_name(dataset, encoder, model)] = {key: line[key] for key in NAMES[:3]}
    return found


def _encoding(
    params: Mapping[str, Any], lists: Mapping[str, Any], dataset: str, encoder: str
) -> dict[tuple[str, ...], Any]:
    name = f"{dataset}-{encoder}"
    if name in (lists.get("encodings") or {}):
        return {}
    kind = config.load(params, f"encoders.{encoder}.kind", str)
    return {("encodings", name): {"dataset": dataset, "encoder": encoder, "kind": kind}}
