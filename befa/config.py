"""Blocks of params.yaml, and of files like it, as frozen dataclasses (pipelines/params_file.py changes params.yaml)."""

import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from befa.errors import ConfigError, nearest

T = TypeVar("T")

NAMED = ("datasets", "encoders")
"""Blocks whose keys are parts of stages' and folders' names."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def configuration(cls: type[T]) -> type[T]:
    """Class decorator: a frozen, keyword-only dataclass whose values are checked when it is made.

    Types are strict (the string "3" is not a number), numbers are finite, and unknown keys are errors.
    """
    return dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))(
        cls
    )


def read_params(path: Path) -> dict[str, Any]:
    """The whole of params.yaml. Raises ConfigError when it is absent or is no YAML mapping.

    YAML 1.2 through ruamel, as DVC reads it: PyYAML would take `1e-3` for a string.
    """
    try:
        params = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("no parameter file", where=path, mend="run from the top of the project") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read ({error})", where=path, mend="save it as text in UTF-8") from None
    except YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"not valid YAML ({reason})", where=path, mend="mend the syntax") from None
    if not isinstance(params, dict):
        raise ConfigError("the top level is not a mapping", where=path, mend="write `key: value` lines")
    _require_names(params, path)
    return params


def _require_names(value: Any, path: Path, above: str = "the top level") -> None:
    """Raises ConfigError for a key that is a number, say, and for a name that a stage cannot have."""
    if not isinstance(value, Mapping):
        return
    for key, below in value.items():
        if not isinstance(key, str):
            raise ConfigError(f"the key {key!r} under {above} is no text", where=path, mend=f"write '{key}'")
        if above in NAMED and not re.fullmatch(r"[A-Za-z0-9_-]+", key):
            what = f"{key!r} under {above} cannot be the name of a stage or folder"
            raise ConfigError(what, where=path, mend="take letters, digits, _ and -")
        _require_names(below, path, key if above == "the top level" else f"{above}.{key}")


def block(params: Mapping[str, Any], name: str, *, where: str = "params.yaml") -> Any:
    """The value at a dotted `name` ("datasets.hm.window"). Raises ConfigError naming the first absent part.

    `where`: the file that `params` was read from.
    """
    value: Any = params
    parts = name.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(value, Mapping) or part not in value:
            known = value if isinstance(value, Mapping) else ()
            above = ".".join(parts[:depth]) or "the top level"
            raise ConfigError(f"no {part!r} under {above}", where=where, mend=nearest(part, map(str, known)))
        value = value[part]
    return value


def load(params: Mapping[str, Any], name: str, cls: Any, *, where: str = "params.yaml") -> Any:
    """The value at a dotted `name` as a `cls`: a class made by `configuration`, or a plain type such as `str | None`.

    `where`: the file that `params` was read from. Raises ConfigError that names it, the key, what is wrong with that,
    and the nearest known key.
    """
    return check(block(params, name, where=where), name, cls, where=where)


def check(value: Any, name: str, cls: Any, *, where: str = "params.yaml") -> Any:
    """`value`, which stands at the dotted `name` in `where`, as a `cls`; see `load`."""
    try:
        # Through JSON: pydantic's strict mode then still lets a list be a tuple and a string be a date.
        # An empty block (`network:` with nothing below) is one of defaults, where a block is wanted.
        value = {} if value is None and is_dataclass(cls) else value
        return TypeAdapter(cls).validate_json(json.dumps(value, default=str))
    except ValidationError as error:
        raise ConfigError(_describe(name, error), where=where, mend=_mend(cls, error)) from None


def _first(error: ValidationError) -> dict[str, Any]:
    """The most telling problem: a misspelt key explains the missing one that it leaves behind."""
    problems = error.errors(include_url=False)
    return next((p for p in problems if p["type"] == "unexpected_keyword_argument"), problems[0])


def _describe(name: str, error: ValidationError) -> str:
    first = _first(error)
    key = ".".join([name, *map(str, first["loc"])])
    if first["type"] == "unexpected_keyword_argument":
        return f"unknown key {key!r}"
    if first["type"] == "missing":
        return f"missing key {key!r}"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{key!r} is {json.dumps(first['input'], default=str)}: {message}"


def _mend(cls: Any, error: ValidationError) -> str:
    first = _first(error)
    if first["type"] == "unexpected_keyword_argument":
        return nearest(str(first["loc"][-1]), _known_keys(cls, first["loc"][:-1]))
    return "add it" if first["type"] == "missing" else "correct the value"


def _known_keys(cls: Any, location: tuple[int | str, ...]) -> list[str]:
    """Field names of the configuration at `location` inside `cls`; a step into a union or list ends the walk."""
    for step in location:
        inner = {f.name: f.type for f in fields(cls)}.get(str(step))
        if not isinstance(inner, type) or not hasattr(inner, "__dataclass_fields__"):
            return []
        cls = inner
    return [f.name for f in fields(cls)]
