"""A cell of the experiment, dataset x encoder x model x adapter, and everything that decides its result."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field
from torch import nn

from befa import config, tables
from befa.adapters import ADAPTERS
from befa.cell_names import LEADERS, cell_stage, host_name
from befa.config import configuration
from befa.errors import ConfigError, DataError, lookup, nearest
from befa.metrics import CUTOFFS, METRICS
from befa.models import MODELS
from befa.problem import ProtocolName

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
    """In place of the model's own; null keeps that. A cell has the one that holds in `optimizer`, and null here."""
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


BLOCKS = (
    "protocol", "dataset", "datasets", "pictures", "encode", "encoders", "features", "training", "models", "adapters",
    "tuning", "sensitivity", "attribution", "distribution", "train_befa", "tuned",
)  # fmt: skip
"""Of params.yaml. Others are left alone: they may be there for their anchors."""


def _require_blocks(params: Mapping[str, Any]) -> None:
    """Raises ConfigError for a block that is misspelt: nobody would look at it."""
    for name in params:
        if name not in BLOCKS and (close := get_close_matches(name, BLOCKS, n=1, cutoff=0.8)):
            mend = f"is {close[0]!r} meant? a block of your own needs a name less like it"
            raise ConfigError(f"no block is called {name!r}", where="params.yaml", mend=mend)


def _require_hosts(params: Mapping[str, Any]) -> None:
    """Raises ConfigError for a line of `tuned` that is no host's: its settings would silently not be used.

    And for two pairs of dataset and encoder of one name: they would share folders of stages, and what is tuned.
    """
    pairs: dict[str, tuple[str, str]] = {}
    for dataset, encoder in product(config.block(params, "datasets"), config.block(params, "encoders")):
        other = pairs.setdefault(f"{dataset}-{encoder}", (dataset, encoder))
        if other != (dataset, encoder):
            what = f"{dataset} with {encoder}, and {' with '.join(other)}, are both {dataset}-{encoder} in the graph"
            raise ConfigError(what, where="params.yaml", mend="rename one of them")
    known = dict.fromkeys(host_name(*pair, model) for pair in pairs.values() for model in MODELS)
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
        _require_blocks(params)
        _require_hosts(params)
        recommender = lookup(MODELS, model, "model")
        for key in config.load(params, f"models.{model}", dict[str, Any]):
            lookup(dict.fromkeys(("network", "optimizer")), key, f"key under models.{model} in params.yaml,")
        settings = Settings(params, dataset, encoder, model, adapter)
        network = settings.load(f"models.{model}.network", "network", recommender.Config)
        adapters = lookup(ADAPTERS, adapter, "adapter")
        if adapters.features == "fixed" and _makes_content(network):
            network = replace(network, trainable_features=False)
        features = config.load(params, f"features.{dataset}", FeaturesConfig)
        training = config.load(params, f"training.{dataset}", TrainingConfig)
        optimizer = settings.load(f"models.{model}.optimizer", "optimizer", OptimizerConfig)
        if training.learning_rate is not None and "learning_rate" not in settings.tuned.optimizer:
            optimizer = replace(optimizer, learning_rate=training.learning_rate)
        cell = cls(
            dataset=dataset,
            encoder=encoder,
            model=model,
            adapter=adapter,
            protocol=config.load(params, "protocol", ProtocolName),
            network=network,
            adaptation=settings.load(f"adapters.{adapter}", "adaptation", adapters.Config),
            optimizer=optimizer,
            features=features,
            training=replace(training, learning_rate=None),
        )
        cell.check()
        return cell

    @classmethod
    def read(cls, path: Path) -> "Cell":
        """From a config.json that `write` made. Raises DataError where there is none: the cell is not trained."""
        names = path.parts[-5:-1]
        if not path.is_file() and len(names) == 4:
            raise DataError("no trained run", where=path.parent, mend=f"run dvc repro {cell_stage('train', *names)}")
        stored, where = tables.read_json(path), str(path)
        if not (isinstance(stored, dict) and all(isinstance(stored.get(key), str) for key in ("model", "adapter"))):
            raise DataError("not the configuration of a cell", where=path, mend="run its train stage again")
        model, adapter = lookup(MODELS, stored["model"], "model"), lookup(ADAPTERS, stored["adapter"], "adapter")
        typed = {"network": model.Config, "adaptation": adapter.Config}
        parts = {key: config.load(stored, key, kind, where=where) for key, kind in typed.items()}
        return replace(config.check(stored, "cell", cls, where=where), **parts)

    def check(self) -> None:
        """Raises ConfigError for unknown names, another's configuration, and an adapter that would change nothing."""
        model, adapter = lookup(MODELS, self.model, "model"), lookup(ADAPTERS, self.adapter, "adapter")
        for part, name, kind in (("network", self.model, model), ("adaptation", self.adapter, adapter)):
            found = getattr(self, part)
            if not isinstance(found, kind.Config):
                what = f"{part} is a {type(found).__name__}, and {name} has a {kind.Config.__name__}"
                raise ConfigError(what, mend="take the Config of the model's or adapter's class")
        if self.adapter != "none" and not _makes_content(self.network):
            what = f"{self.model} makes no content, so the adapter {self.adapter} would change nothing"
            able = ", ".join(name for name, kind in MODELS.items() if _makes_content(kind.Config))
            raise ConfigError(what, mend=f"take adapter none, or a model with content ({able})")
        if self.adapter != "none" and not self.features.modalities:
            what = f"features.{self.dataset} has no modality, so the adapter {self.adapter} would change nothing"
            mend = f"take adapter none, or name a modality (features.{self.dataset}.modalities of params.yaml)"
            raise ConfigError(what, mend=mend)
        if adapter.features == "fixed" and self.network.trainable_features:
            what = f"{self.adapter} is for feature tables that training leaves alone"
            raise ConfigError(what, mend="set trainable_features=False in the model's configuration")

    def write(self, path: Path) -> None:
        """As JSON."""
        tables.write_json(path, asdict(self))


def _makes_content(network: Any) -> bool:
    """Whether the model of this configuration projects features, and an adapter thus has something to adapt."""
    return hasattr(network, "trainable_features")
