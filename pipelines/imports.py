"""Which of the project's files a stage runs, read from the import statements (nothing is imported)."""

import ast
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent

REGISTRIES = {
    "befa/sources/__init__.py": "dataset",
    "befa/encoders/__init__.py": "encoder",
    "befa/models/__init__.py": "model",
    "befa/adapters/__init__.py": "adapter",
}
"""Files that hold one dict of the folder's members, and the axis of the graph that picks one of them."""


def module_file(module: str) -> str | None:
    """The project's file of a dotted name, relative to the root; None for other libraries."""
    base = ROOT / module.replace(".", "/")
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file() and module.split(".")[0] in ("befa", "pipelines"):
            return str(path.relative_to(ROOT))
    return None


@cache
def imports(file: str) -> frozenset[str]:
    """The project's files that `file` imports, inside functions too; annotations-only imports do not count."""
    found = set()
    for node in _statements(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            # `from befa import tables` names a module, `from befa.tables import whole` something inside one.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if module_file(name) else node.module for name in names]
        found |= {module_file(name) for name in names}
    return frozenset(found - {None})


def _statements(node: ast.AST):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        else:
            yield from _statements(child)


def closure(file: str, members: dict[str, str]) -> set[str]:
    """All files that `file` runs, itself included. Of a registry only the member that `members` names is followed:
    the registry itself is a list of names, and its other members are not run."""
    return _reached(
        file,
        lambda registry: {path for path in imports(registry) if _stem(path) == members[REGISTRIES[registry]]},
    )


def shared(stage: str) -> set[str]:
    """All files that `pipelines/stages/<stage>.py` may run whatever members are picked, but for the members' own."""
    file = f"pipelines/stages/{stage}.py"
    members = {path for registry in REGISTRIES for path in imports(registry) if _stem(path) != "base"}
    # An encoder that another is built on is shared. Not so an adapter: a change of BeFA must not rerun the base, so
    # the stages of its controls name it.
    members -= {path for member in members for path in imports(member) if not path.startswith("befa/adapters/")}
    # A member that is run beside the registry, by name, is shared like any other file.
    return _reached(file, lambda registry: set()) | (_reached(file, imports) - members)


def _reached(start: str, followed: Callable[[str], Collection[str]]) -> set[str]:
    """What the file `start` leads to; from a registry on, what `followed` says."""
    seen, todo = set(), [start]
    while todo:
        file = todo.pop()
        if file not in seen:
            seen.add(file)
            todo += followed(file) if file in REGISTRIES else imports(file) | _packages(file)
    return {file for file in seen if file not in REGISTRIES and not _only_documents(file)}


def _packages(file: str) -> set[str]:
    """The __init__.py of each folder above `file`, which Python runs first; the registries are followed by name."""
    above = {str(folder / "__init__.py") for folder in Path(file).parents}
    return {path for path in above - REGISTRIES.keys() if (ROOT / path).is_file()}


def _stem(path: str) -> str:
    """A member's name: of its file, or of its folder."""
    return Path(path).parent.name if path.endswith("/__init__.py") else Path(path).stem


@cache
def _only_documents(file: str) -> bool:
    """A folder's __init__.py that holds a docstring alone changes nothing."""
    return all(isinstance(node, ast.Expr) for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body)


def covered(file: str, deps: set[str]) -> bool:
    """Whether a stage that declares `deps` depends on `file`, by its own name or by a folder's."""
    return any(file == dep or file.startswith(f"{dep}/") for dep in deps)
