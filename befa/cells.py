"""A cell of the experiment: dataset x encoder x model x adapter, its configuration and its training problem."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import torch
from pydantic import AfterValidator, Field
from torch import nn

from befa import config, splits, tables
from befa.adapters import ADAPTERS
from befa.config import configuration
from befa.controls import controlled
from befa.errors import ConfigError, DataError, lookup, nearest
from befa.feature_store import ENCODED, GIVEN, FeatureStore
from befa.metrics import CUTOFFS, METRICS, Interactions
from befa.models import MODELS
from befa.paths import Layout
from befa.problem import Content, Problem, ProtocolName
from befa.rng import numpy_stream, stream

T = TypeVar("T", bound=tuple)


def _different(values: T) -> T:
    if len(set(values)) < len(values):
        raise ValueError("one is given twice")
    return values


def _attributes(names: T) -> T:
    """Modalities are attributes of a torch module: some names are taken."""
    for name in names:
        if not name.isidentifier() or hasattr(nn.ModuleDict, name) or name == "training":
            raise ValueError(f"{name!r} cannot be a modality's name; take {name}_given, say")
    return names


def _metric(name: str) -> str:
    known = [f"{metric}@{k}" for metric in METRICS for k in CUTOFFS]
    if name not in known:
        raise ValueError(f"unknown metric; {nearest(name, known)}")
    return name


@configuration
class FeaturesConfig:
    """How a model is given features; one block per dataset in params.yaml."""

    modalities: Annotated[tuple[str, ...], AfterValidator(_different), AfterValidator(_attributes)] = ("image", "text")
    """image and text (made by the cell's encoder), and those that the dataset brings as vectors."""
    max_missing: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Largest share of items that may have no vector of a modality; more is an error."""
    missing: Literal["mask", "mean"] = "mask"
    """`mask`: an absent item takes no part in content. `mean`: it gets the mean of the others (the field's habit)."""


@configuration
class OptimizerConfig:
    """Adam; the learning rate of an epoch (counted from 0) is `learning_rate` * `decay` ** (epoch / 50)."""

    learning_rate: Annotated[float, Field(gt=0)] = 0.001
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0


GROUPS = ("cells", "controls")
"""The blocks of pipelines/cells.yaml that list cells."""

LEADERS = {
    "constant_gate": "befa",
    "random_features": "befa",
    "shuffled_features": "befa",
    "befa_fixed": "befa",
    "none_fixed": "none",
}
"""Controls, and the adapter whose tuned settings they have: a control differs from it in one thing alone."""


Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""Of as many bits as per_user.parquet has for it."""


@configuration
class TrainingConfig:
    """The training loop; one block per dataset in params.yaml."""

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_different)] = (1,)
    """Trained one after the other, each from its own beginning; the cell's metrics are means over them."""
    epochs: Annotated[int, Field(ge=1)] = 1000
    """Most epochs."""
    batch_size: Annotated[int, Field(ge=1, le=2**31)] = 2048
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """In place of the model's own; null keeps that."""
    patience: Annotated[int, Field(ge=1)] = 20
    """Epochs without a better validation value before training stops."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """CPU threads of training and evaluation. At these sizes one is as fast as two and never waits for the other; it is
    a parameter because sums may differ in their last bit between numbers of threads."""
    monitor: Annotated[str, AfterValidator(_metric)] = "recall@20"
    """The validation metric that picks the epoch; higher is better."""


@configuration
class Tuned:
    """What tuning chose for one cell: values that take the place of its model's and its adapter's own."""

    network: dict[str, Any] = Field(default_factory=dict)
    optimizer: dict[str, Any] = Field(default_factory=dict)
    adaptation: dict[str, Any] = Field(default_factory=dict)


@configuration
class Listed:
    """A line of `cells` or `controls` in pipelines/cells.yaml."""

    dataset: str
    encoder: str
    model: str
    adapter: str

    @property
    def name(self) -> str:
        """Its name in the graph."""
        return cell_name(self.dataset, self.encoder, self.model, self.adapter)


def cell_name(dataset: str, encoder: str, model: str, adapter: str) -> str:
    """A cell's name in the graph: `dvc repro evaluate@<name>`."""
    return f"{dataset}-{encoder}-{model}-{adapter}"


def training_stage(dataset: str, encoder: str, model: str, adapter: str) -> str:
    """What to tell DVC to train a cell: `dvc repro <this>`."""
    stage = "train_control" if adapter in LEADERS else "train"
    return f"{stage}@{cell_name(dataset, encoder, model, adapter)}"


def host_name(dataset: str, encoder: str, model: str) -> str:
    """What cells with the same model on the same features share."""
    return f"{dataset}-{encoder}-{model}"


def listed(lists: Mapping[str, Any]) -> dict[str, Listed]:
    """The cells and controls of pipelines/cells.yaml by name. Raises ConfigError for a line of another cell's name."""
    found, where = {}, Layout().cells
    for group in GROUPS:
        for name in lists.get(group) or {}:
            cell = found[name] = config.load(lists, f"{group}.{name}", Listed, where=str(where))
            if cell.name != name:
                raise ConfigError(f"{group}.{name} is a line of {cell.name}", where=where, mend="rename it")
    return found


class Settings:
    """A cell's blocks of params.yaml, with what was tuned for it in their place."""

    def __init__(self, params: Mapping[str, Any], dataset: str, encoder: str, model: str, adapter: str) -> None:
        self._params = params
        leader = LEADERS.get(adapter, adapter)
        self._above = ("tuned", host_name(dataset, encoder, model), leader)
        tuned = config.load(params, "tuned", dict[str, dict[str, Any] | None]) if params.get("tuned") else {}
        known = tuned.get(self._above[1]) or {}
        for one in known:
            lookup(ADAPTERS, one, f"adapter below tuned.{self._above[1]} in params.yaml,")
        self.searched = leader in known
        """Whether a search has chosen for it, be it nothing: its untuned settings may have won."""
        self.tuned = config.load(params, ".".join(self._above), Tuned) if self.searched else Tuned()

    def load(self, block: str, part: str, kind: Any) -> Any:
        """The `block` of params.yaml under the tuned `part`. Raises ConfigError that names where a value stands."""
        tuned, own = getattr(self.tuned, part), config.load(self._params, block, kind)
        if not tuned:
            return own
        merged = {**(config.block(self._params, block) or {}), **tuned}
        return config.check(merged, ".".join((*self._above, part)), kind)


def _require_hosts(params: Mapping[str, Any]) -> None:
    """Raises ConfigError for a line of `tuned` that is no host's: its settings would silently not be used."""
    names = product(config.block(params, "datasets"), config.block(params, "encoders"), MODELS)
    known = dict.fromkeys(host_name(*host) for host in names)
    for host, chosen in (params.get("tuned") or {}).items():
        if chosen:  # an empty one is there for DVC's sake
            lookup(known, host, "host below tuned in params.yaml,")


@configuration
class Cell:
    """Everything that decides a cell's result besides its data; stored beside the checkpoint as config.json."""

    dataset: str
    encoder: str
    model: str
    adapter: str
    protocol: ProtocolName
    network: Any
    """The model's own configuration (`MODELS[model].Config`)."""
    adaptation: Any
    """The adapter's own configuration (`ADAPTERS[adapter].Config`)."""
    optimizer: OptimizerConfig
    features: FeaturesConfig
    training: TrainingConfig

    @classmethod
    def from_params(cls, params: Mapping[str, Any], dataset: str, encoder: str, model: str, adapter: str) -> "Cell":
        """From params.yaml. Raises ConfigError for an unknown name or a wrong value."""
        for kind, name in (("dataset", dataset), ("encoder", encoder)):
            lookup(config.block(params, f"{kind}s"), name, kind)
        _require_hosts(params)
        settings = Settings(params, dataset, encoder, model, adapter)
        network = settings.load(f"models.{model}.network", "network", lookup(MODELS, model, "model").Config)
        adapters = lookup(ADAPTERS, adapter, "adapter")
        if adapter != "none" and not _makes_content(network):
            what = f"{model} makes no content, so the adapter {adapter} would change nothing"
            able = ", ".join(name for name, kind in MODELS.items() if _makes_content(kind.Config))
            raise ConfigError(what, mend=f"take adapter none, or a model with content ({able})")
        if adapters.features == "fixed" and _makes_content(network):
            network = replace(network, trainable_features=False)
        features = config.load(params, f"features.{dataset}", FeaturesConfig)
        if adapter != "none" and not features.modalities:
            what = f"features.{dataset} has no modality, so the adapter {adapter} would change nothing"
            raise ConfigError(what, where="params.yaml", mend="take adapter none, or name a modality")
        training = config.load(params, f"training.{dataset}", TrainingConfig)
        if "learning_rate" in settings.tuned.optimizer:  # else the dataset's would take its place
            training = replace(training, learning_rate=None)
        return cls(
            dataset=dataset,
            encoder=encoder,
            model=model,
            adapter=adapter,
            protocol=config.load(params, "protocol", ProtocolName),
            network=network,
            adaptation=settings.load(f"adapters.{adapter}", "adaptation", adapters.Config),
            optimizer=settings.load(f"models.{model}.optimizer", "optimizer", OptimizerConfig),
            features=features,
            training=training,
        )

    @classmethod
    def read(cls, path: Path) -> "Cell":
        """From a config.json that `write` made. Raises DataError where there is none: the cell is not trained."""
        names = path.parts[-5:-1]
        if not path.is_file() and len(names) == 4:
            raise DataError("no trained run", where=path.parent, mend=f"run dvc repro {training_stage(*names)}")
        stored, where = tables.read_json(path), str(path)
        if not (isinstance(stored, dict) and all(isinstance(stored.get(key), str) for key in ("model", "adapter"))):
            raise DataError("not the configuration of a cell", where=path, mend="run its train stage again")
        model, adapter = lookup(MODELS, stored["model"], "model"), lookup(ADAPTERS, stored["adapter"], "adapter")
        typed = {"network": model.Config, "adaptation": adapter.Config}
        parts = {key: config.load(stored, key, kind, where=where) for key, kind in typed.items()}
        return replace(config.check(stored, "cell", cls, where=where), **parts)

    def write(self, path: Path) -> None:
        """As JSON."""
        tables.write_json(path, asdict(self))


def _makes_content(network: Any) -> bool:
    """Whether the model of this configuration projects features, and an adapter thus has something to adapt."""
    return hasattr(network, "trainable_features")


def load_problem(layout: Layout, cell: Cell, seed: int, device: str = "cpu") -> Problem:
    """The cell's training problem: the train part of the split, and the features of every modality by item id.

    A control's features are made here, from `seed`: evaluation makes the same ones again.
    Raises DataError or FeatureError when a file is absent, of another dataset or encoder, or misses too many items.
    """
    items, users = _numbered(layout.items(cell.dataset), "item"), _numbered(layout.users(cell.dataset), "user")
    splits.check(layout.split(cell.dataset), users["user"], items["item"])
    users_E, items_E = splits.read(layout.split(cell.dataset), "train")
    if len(users_E) == 0:
        raise DataError("no training interaction", where=layout.split(cell.dataset), mend="change the split's shares")
    contents = {}
    for modality in cell.features.modalities:
        if modality in ENCODED:
            path, encoder = layout.features(cell.dataset, cell.encoder, modality), cell.encoder
        else:
            path, encoder = layout.vectors(cell.dataset, modality), GIVEN
            if not path.exists():
                _require_given(layout, cell.dataset, modality)
        store = FeatureStore.open(path, dataset=cell.dataset, encoder=encoder, modality=modality)
        values, present = store.aligned(items["item"].to_pylist(), max_missing=cell.features.max_missing)
        # Before the policy for absent items, which would pass a filled row off as a real one.
        use, rng = ADAPTERS[cell.adapter].features, numpy_stream(seed, "control", modality)
        contents[modality] = content(controlled(values, present, use, rng=rng), present, cell.features.missing)
    contents = {name: Content(c.values_Ic.to(device), c.present_I.to(device)) for name, c in contents.items()}
    pairs = (torch.from_numpy(column).to(device) for column in (users_E, items_E))
    return Problem(len(users), len(items), *pairs, contents)


def _require_given(layout: Layout, dataset: str, modality: str) -> None:
    """Raises ConfigError for a modality that is neither an encoder's nor among those that the dataset brings."""
    brought = tables.read_json(layout.given(dataset)) if layout.given(dataset).exists() else {modality: None}
    if modality not in brought:
        where = f"features.{dataset}.modalities of params.yaml"
        raise ConfigError(f"unknown modality {modality!r}", where=where, mend=nearest(modality, [*ENCODED, *brought]))


def _numbered(path: Path, kind: Literal["item", "user"]) -> pa.Table:
    """Raw ids, by dense id. Raises DataError where a row's place is not its number: features are joined by place."""
    table = tables.read_table(path, [f"{kind}_index", kind])
    if not np.array_equal(table[f"{kind}_index"].to_numpy(), np.arange(len(table))):
        raise DataError(f"{kind}_index does not count its rows from 0", where=path, mend=f"sort by {kind}_index")
    return table


def content(values_Ic: np.ndarray, present_I: np.ndarray, missing: Literal["mask", "mean"]) -> Content:
    """Content from a store's matrix, whose absent rows are NaN, by the policy for absent items."""
    fill = values_Ic[present_I].mean(0) if missing == "mean" and present_I.any() else 0.0
    filled_Ic = np.where(present_I[:, None], values_Ic, fill).astype(np.float32, copy=False)
    marked_I = np.ones_like(present_I) if missing == "mean" and present_I.any() else present_I
    return Content(torch.from_numpy(filled_Ic), torch.from_numpy(marked_I.copy()))


def load_valid(layout: Layout, cell: Cell, n_users: int) -> Interactions:
    """The validation interactions of a cell's dataset, by user."""
    return Interactions.of(*splits.read(layout.split(cell.dataset), "valid"), n_users)


def build(problem: Problem, cell: Cell, seed: int) -> nn.Module:
    """The cell's model with freshly initialised parameters, on the problem's device."""
    width = cell.network.width
    adapters = {
        modality: ADAPTERS[cell.adapter](cell.adaptation, width, rng=stream(seed, "adapter", modality))
        for modality in problem.contents
    }
    # Graphs are made where the problem lies; parameters are drawn on the CPU, the same ones for every device.
    model = MODELS[cell.model](problem, adapters, cell.network, rng=stream(seed, "init"))
    return model.to(problem.users_E.device)
