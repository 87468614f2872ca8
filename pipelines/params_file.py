"""Changes to params.yaml and cells.yaml that leave every other byte as it was: comments, order, quotes, spacing."""

import json
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node

from befa import config, tables
from befa.errors import ConfigError
from befa.locks import locked

Edits = Mapping[tuple[str, ...], Any]
"""Values by where they go: ("cells", NAME) or ("tuned", HOST, "befa"). One that is there is replaced."""

MEND = "change it by hand"


def change(path: Path, edits: Edits) -> None:
    """Makes `edits` in a YAML file, all or none of them; one change at a time, whichever process makes it.

    A new line goes below the last one of its block that has the same beginning up to a hyphen, or else at the block's
    end. Values are written in one line. A file that has them already is not touched.

    Raises ConfigError where that would change anything else, as with a value that is an alias for another place's, and
    where a block on the way is a list or a word.
    """
    path = path.resolve()
    with locked(_lock(path)):
        before = config.read_params(path)
        text = path.read_bytes().decode("utf-8")
        wanted = _plain(before)
        for keys, value in edits.items():
            if _get(wanted, keys) != value:
                _set(wanted, keys, _plain(value), path)
                text = _edited(text, keys, value)
        if wanted == _plain(before):
            return
        rights = stat.S_IMODE(path.stat().st_mode)
        with tables.whole(path) as part:
            part.write_bytes(text.encode("utf-8"))
            if not _is(part, wanted):
                what = f"{', '.join('.'.join(keys) for keys in edits)} cannot be set without changing something else"
                raise ConfigError(what, where=path, mend=MEND)
        path.chmod(rights)


def flow(value: Any) -> str:
    """A value as YAML in one line, as params.yaml has them: `{rate: 0.00001, kind: released}`."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(key)}: {flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w-]*", value) and _read(value) == value:
        return value
    if isinstance(value, float):
        return np.format_float_positional(value, trim="0")  # 1e-05 would be a word to some readers of YAML
    return json.dumps(value, ensure_ascii=False)


def _is(path: Path, wanted: Any) -> bool:
    try:
        return _plain(config.read_params(path)) == wanted
    except ConfigError:
        return False


def _lock(path: Path) -> Path:
    """Where DVC keeps its own; beside the file where there is no DVC."""
    for folder in path.parents:
        if (folder / ".dvc").is_dir():
            return folder / ".dvc/tmp" / f"{path.name}.lock"
    return path.with_name(f".{path.name}.lock")


def _read(text: str) -> Any:
    return YAML(typ="safe").load(text)


def _plain(value: Any) -> Any:
    """A copy without what YAML's aliases share."""
    return json.loads(json.dumps(value, default=str))


def _get(params: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        params = params.get(key) if isinstance(params, Mapping) else None
    return params


def _set(params: dict[str, Any], keys: tuple[str, ...], value: Any, where: Path) -> None:
    for depth, key in enumerate(keys[:-1], start=1):
        if not params.get(key):  # absent, or empty in any way: {}, [], null
            params[key] = {}
        params = params[key]
        if not isinstance(params, dict):
            raise ConfigError(f"{'.'.join(keys[:depth])} has no names with values", where=where, mend=MEND)
    params[keys[-1]] = value


def _edited(text: str, keys: tuple[str, ...], value: Any) -> str:
    """The text with one edit, by the places where YAML's parser finds things."""
    node = YAML(typ="safe").compose(text)
    for depth, key in enumerate(keys):
        name, child = next((pair for pair in node.value if pair[0].value == key), (None, None))
        if child is None:
            return _inserted(text, node, key, _nested(keys[depth + 1 :], value))
        if depth + 1 < len(keys) and not (isinstance(child, MappingNode) and child.value):
            return _filled(text, name, child, keys[depth + 1], _nested(keys[depth + 2 :], value))
        node = child
    return text[: node.start_mark.index] + flow(value) + text[_end(node) :]


def _nested(keys: tuple[str, ...], value: Any) -> Any:
    for key in reversed(keys):
        value = {key: value}
    return value


def _inserted(text: str, node: MappingNode, key: str, value: Any) -> str:
    """A new entry in a mapping that has some."""
    entry = f"{flow(key)}: {flow(value)}"
    if node.flow_style:
        end = _end(node.value[-1][1])
        return f"{text[:end]}, {entry}{text[end:]}"
    names = [name.value for name, _ in node.value]
    name, child = node.value[_place(names, key)]
    return _line_after(text, _end(child), " " * name.start_mark.column + entry)


def _place(names: list[str], key: str) -> int:
    """Which entry a new one follows: the last of those that have most in common with it, up to a hyphen."""
    parts = key.split("-")
    for count in range(len(parts) - 1, 0, -1):
        alike = [place for place, name in enumerate(names) if name.split("-")[:count] == parts[:count]]
        if alike:
            return alike[-1]
    return len(names) - 1


def _filled(text: str, name: Node, node: Node, key: str, value: Any) -> str:
    """The first entry of the mapping called `name`, which is empty: written `{}`, `[]`, `null`, or as nothing."""
    if _end(node) > node.start_mark.index:  # of nothing, the parser does not say where it stands
        text = text[: node.start_mark.index].rstrip(" ") + text[_end(node) :]
    indent = " " * (name.start_mark.column + 2)
    return _line_after(text, name.end_mark.index, f"{indent}{flow(key)}: {flow(value)}")


def _line_after(text: str, index: int, line: str) -> str:
    """The text with a line below that of `index`."""
    newline = "\r\n" if "\r\n" in text else "\n"
    found = text.find("\n", index)
    if found < 0:
        return text + newline + line + newline
    return text[: found + 1] + line + newline + text[found + 1 :]


def _end(node: Node) -> int:
    """Where a value ends; the parser counts what follows a block (blank lines, comments) into it."""
    if isinstance(node, MappingNode) and node.value and not node.flow_style:
        return _end(node.value[-1][1])
    return node.end_mark.index
