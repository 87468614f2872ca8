"""What tuning may choose from: each setting's choices or range, checked against what it configures."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field

from befa import config
from befa.adapters import ADAPTERS
from befa.cells import OptimizerConfig
from befa.config import configuration
from befa.errors import ConfigError, lookup, nearest
from befa.models import MODELS

Values = dict[str, Any]
"""Values by a setting's name: the part of a cell, a dot, the key (`network.dropout`)."""

Distributions = dict[str, BaseDistribution]
"""The same of what a value is drawn from."""


@configuration
class Range:
    """Numbers from `low` to `high`, both included; whole ones where the setting is a whole number."""

    low: int | float
    high: int | float
    log: bool = False
    """Every order of magnitude is as likely."""
    step: Annotated[int | float, Field(gt=0)] | None = None
    """Only every such number from `low` on; null: 1 of whole numbers, and all of others. Not with `log`."""


@configuration
class Space:
    """Setting by setting, a list of choices or a `Range`."""

    optimizer: dict[str, Any] = Field(default_factory=dict)
    """Of every model."""
    models: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """By model, of its network."""
    adapters: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """By adapter, its own."""

    def distributions(self, params: Mapping[str, Any], model: str, adapter: str) -> Distributions:
        """What a model with an adapter is tuned over: the host's settings first, the same ones for every adapter.

        The whole space is checked, other models' too. Raises ConfigError for an unknown model, adapter or setting (it
        names the nearest), a value that the setting cannot have, a choice that is listed twice, an impossible range.
        """
        networks = {
            name: _checked(params, f"models.{name}", of, f"models.{name}.network", lookup(MODELS, name, "model").Config)
            for name, of in self.models.items()
        }
        adaptations = {
            name: _checked(params, f"adapters.{name}", of, f"adapters.{name}", lookup(ADAPTERS, name, "adapter").Config)
            for name, of in self.adapters.items()
        }
        of_parts = {
            "optimizer": _checked(params, "optimizer", self.optimizer, f"models.{model}.optimizer", OptimizerConfig),
            "network": networks.get(model, {}),
            "adaptation": adaptations.get(adapter, {}),
        }
        return {f"{part}.{key}": each for part, found in of_parts.items() for key, each in found.items()}


def _checked(
    params: Mapping[str, Any], name: str, settings: Mapping[str, Any], own: str, kind: Any
) -> dict[str, BaseDistribution]:
    """The distributions of one block of `tuning.space`, whose settings stand for those of params.yaml's block `own`."""
    where, values = f"tuning.space.{name}", _block(params, own)

    def valid(key: str, value: Any) -> Any:
        return getattr(config.check({**values, key: value}, where, kind), key)

    known = [field.name for field in fields(kind)]
    found = {}
    for key, given in settings.items():
        if key not in known:
            raise ConfigError(f"unknown key '{where}.{key}'", where="params.yaml", mend=nearest(key, known))
        if isinstance(given, Mapping):
            limits = config.check(given, f"{where}.{key}", Range)
            found[key] = _range(
                f"{where}.{key}", limits, valid(key, limits.low), valid(key, limits.high), get_type_hints(kind)[key]
            )
        elif isinstance(given, list) and given:
            found[key] = _choices(f"{where}.{key}", [valid(key, value) for value in given])
        else:
            what = f"{where}.{key} is {json.dumps(given)}"
            raise ConfigError(what, where="params.yaml", mend="give a list of choices, or {low, high}")
    return found


def _block(params: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A model or adapter that is in the code and in the space need not be in params.yaml."""
    value: Any = params
    parts = name.split(".")
    for number, part in enumerate(parts, start=1):
        value = (value or {}).get(part)
        if not isinstance(value, Mapping | None):
            what = f"'{'.'.join(parts[:number])}' is {json.dumps(value, default=str)}, and no block"
            raise ConfigError(what, where="params.yaml", mend="give its settings by name")
    return value or {}


def _choices(name: str, values: list[Any]) -> BaseDistribution:
    twice = [value for number, value in enumerate(values) if value in values[:number]]
    if twice:
        raise ConfigError(f"{name} has {json.dumps(twice[0])} twice", where="params.yaml", mend="drop one")
    if not all(value is None or isinstance(value, bool | int | float | str) for value in values):
        raise ConfigError(f"{name} has a choice that is no single value", where="params.yaml", mend="list values")
    return CategoricalDistribution(values)


def _range(name: str, limits: Range, low: Any, high: Any, kind: Any) -> BaseDistribution:
    try:
        if kind is int:
            if limits.step and limits.step != int(limits.step):
                raise ValueError("its step is no whole number, as the setting is")
            return IntDistribution(low, high, log=limits.log, step=int(limits.step or 1))
        if kind is float:
            return FloatDistribution(low, high, log=limits.log, step=limits.step)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{name} is no range ({error})", where="params.yaml", mend="correct it") from None
    raise ConfigError(f"{name} is no number, but has a range", where="params.yaml", mend="list its choices")


def size(space: Distributions) -> int | float:
    """How many different combinations there are; infinite with a range of all numbers."""
    return math.prod(_count(each) for each in space.values())


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether it may give `value`."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    if not distribution.low <= value <= distribution.high:
        return False
    if distribution.step is None:
        return True
    steps = (value - distribution.low) / distribution.step
    return math.isclose(steps, round(steps), abs_tol=1e-9)


def combination(space: Distributions, values: Values) -> tuple[int | float, ...]:
    """What tells `values` from another combination: of a choice its place, and of numbers in steps theirs.

    Not the number itself, which is 0.9 where it was written and 0.8999999999999999 after two steps of 0.1 from 0.7.
    """
    return tuple(_place(each, values[name]) for name, each in space.items())


def untried(space: Distributions, tried: set[tuple[int | float, ...]], rng: np.random.Generator) -> Values:
    """One of the combinations that are not in `tried` (see `combination`), each as likely.

    The space must be finite, and not all of it tried.
    """
    while True:
        drawn = {name: _value(each, int(rng.integers(_count(each)))) for name, each in space.items()}
        if combination(space, drawn) not in tried:
            return drawn


def _count(distribution: BaseDistribution) -> int | float:
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if distribution.single():
        return 1
    if distribution.step is None:
        return math.inf
    return round((distribution.high - distribution.low) / distribution.step) + 1


def _place(distribution: BaseDistribution, value: Any) -> int | float:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices.index(value)
    return value if distribution.step is None else round((value - distribution.low) / distribution.step)


def _value(distribution: BaseDistribution, place: int) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[place]
    if distribution.step is None:
        return distribution.low
    return min(distribution.low + place * distribution.step, distribution.high)  # 0.1 + 3 * 0.2 > 0.7
