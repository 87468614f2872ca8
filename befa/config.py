"""Blocks of params.yaml, and of files like it, as frozen dataclasses (pipelines/params_file.py changes params.yaml)."""

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, dataclass_transform, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from befa.errors import ConfigError, first_line, nearest

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
    except (YAMLError, ValueError) as error:  # ValueError: a date that is none
        problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
        reason = f"{problem or first_line(error)}{'' if mark is None else f', line {mark.line + 1}'}"
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
            known = list(map(str, value)) if isinstance(value, Mapping) else []
            above = ".".join(parts[:depth]) or "the top level"
            # What is asked for is right, mostly: the file's key is the misspelt one.
            close = difflib.get_close_matches(part, known, n=1, cutoff=0.7)
            mend = f"is {close[0]!r} meant to be it? rename it" if close else f"add it (there: {', '.join(known)})"
            raise ConfigError(f"no {part!r} under {above}", where=where, mend=mend)
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
        return TypeAdapter(cls).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        what, mend = _described(name, cls, error)
        raise ConfigError(what, where=where, mend=mend) from None


WANTED = {
    "list_type": "a list is wanted, such as [1, 2]",
    "tuple_type": "a list is wanted, such as [1, 2]",
    "too_short": "it needs one entry at least",
    "dict_type": "a block of `key: value` lines is wanted",
    "dataclass_type": "a block of `key: value` lines is wanted",
}
"""pydantic's words speak of Python's types."""


def _first(error: ValidationError) -> dict[str, Any]:
    """The most telling problem: a misspelt key explains the missing one that it leaves behind.

    Else the one farthest in: of the members of a union, the one that the value comes nearest to.
    """
    problems = error.errors(include_url=False)
    misspelt = next((p for p in problems if p["type"] == "unexpected_keyword_argument"), None)
    return misspelt or max(problems, key=lambda problem: len(problem["loc"]))


def _described(name: str, cls: Any, error: ValidationError) -> tuple[str, str]:
    """What is wrong, and the mend."""
    first = _first(error)
    steps, parent = _walked(cls, first["loc"])
    key = ".".join([name, *steps])
    if first["type"] == "unexpected_keyword_argument":
        known = [f.name for f in fields(parent)] if is_dataclass(parent) else []
        return f"unknown key {key!r}", nearest(steps[-1], known)
    if first["type"] == "missing":
        return f"missing key {key!r}", "add it"
    message = WANTED.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{key!r} is {json.dumps(first['input'], default=str)}: {message}", "correct the value"


def _walked(kind: Any, location: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """The keys of a problem's `location` inside `kind`, and the type that the last of them is looked up in."""
    steps, parent = [], kind
    for step in location:
        members = _members(kind)
        if len(members) > 1:  # in a union pydantic puts the member's name before what is wrong in it: no key of a file
            kind = next((member for member in members if getattr(member, "__name__", None) == step), None)
            continue
        steps.append(str(step))
        parent = members[0]
        if is_dataclass(parent):
            kind = next((f.type for f in fields(parent) if f.name == step), None)
        else:  # of a mapping the values' type, of a list the elements'
            kind = (get_args(parent) or (None,))[-1 if get_origin(parent) is dict else 0]
    return steps, parent


def _members(kind: Any) -> list[Any]:
    """The types that a value may be of, null and what `Annotated` adds aside."""
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [member for part in get_args(kind) if part is not NoneType for member in _members(part)]
    return [kind]
