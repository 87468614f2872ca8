"""Nothing a stage imports escapes its deps: DVC reruns nothing when code outside them changes."""

import ast
from functools import cache

import pytest
from dvc.repo import Repo

import befa.adapters
import befa.encoders
import befa.models
import befa.sources
from befa import config
from befa.adapters import ADAPTERS
from befa.encoders import ENCODERS
from befa.models import MODELS
from befa.sources import SOURCES
from pipelines.imports import REGISTRIES, ROOT, closure, covered, imports, shared

BASE = ("none",)
BESIDE = {
    "attribute": BASE,
    "distribution": BASE,
    "tune": BASE,
    "sensitivity": ("none", "befa", "learned_width"),
}
"""Adapters that a stage uses beside that of its name."""


PARAMS = config.read_params(ROOT / "params.yaml")
ALWAYS = {"report"}
"""Stages that DVC runs whenever they are asked for."""


@cache
def stages():
    return {stage.addressing: stage for stage in Repo(str(ROOT)).index.stages if stage.addressing not in ALWAYS}


def members(arguments):
    """The registry members that a stage's command line picks; a member's file has its name."""
    chosen = dict(zip(("dataset", "encoder", "model", "adapter"), arguments, strict=False))
    for axis in ("dataset", "encoder"):
        if axis in chosen:
            chosen[axis] = PARAMS[f"{axis}s"][chosen[axis]]["kind"]
    return chosen


@pytest.mark.parametrize(
    ("registry", "package"),
    [(MODELS, befa.models), (ADAPTERS, befa.adapters), (SOURCES, befa.sources), (ENCODERS, befa.encoders)],
)
def test_a_members_file_has_its_name(registry, package):
    for name, member in registry.items():
        module = member.__module__ if isinstance(member, type) else member.__name__
        assert module == f"{package.__name__}.{name}"


def code(stage):
    """The project's files that a stage runs, and those it declares."""
    command, *arguments = stage.cmd.removeprefix("python -m pipelines ").split()
    declared = {dep.def_path for dep in stage.deps if dep.def_path.startswith(("befa", "pipelines"))}
    if command == "code":  # it hashes other stages' code, so it stands for that
        return closure("pipelines/stages/code.py", {}) | shared(*arguments), declared
    return reached(command, **members(arguments)), declared


@cache
def reached(command, **chosen):
    """The project's files that a stage's command runs with these members."""
    file = f"pipelines/stages/{command}.py"
    adapters = (*BESIDE.get(command, ()), chosen.get("adapter", "none"))
    return frozenset().union(*(closure(file, {**chosen, "adapter": adapter}) for adapter in adapters))


def test_no_stage_runs_code_outside_its_deps():
    known = stages()
    for name, stage in known.items():
        wanted, declared = code(stage)
        behind = {dep.def_path for dep in stage.deps if dep.def_path.startswith("data/code/")}
        for path in behind:
            declared |= code(known[f"code_{path.removeprefix('data/code/').removesuffix('.json')}"])[1]
        missing = sorted(file for file in wanted if not covered(file, declared))
        assert not missing, f"{name} runs {missing}: add them to its deps in dvc.yaml"


def test_what_python_runs_first_is_run_too():
    """befa/__init__.py decides the order of sums."""
    assert "befa/__init__.py" in closure("befa/rng.py", {}) & shared("train")


def test_no_dep_is_needless():
    """A dep may be needless for one dataset and needed for another of the same template, not for all."""
    needless, needed = set(), set()
    for name, stage in stages().items():
        wanted, declared = code(stage)
        for dep in declared:
            used = any(covered(file, {dep}) for file in wanted)
            (needed if used else needless).add((name.partition("@")[0], dep))
    assert not needless - needed, "drop these from the deps in dvc.yaml"


@pytest.mark.parametrize("file", sorted(REGISTRIES))
def test_a_registry_holds_names_and_nothing_else(file):
    """It is in nobody's deps (a new model must not rerun the old ones), so nothing may hide in it."""
    body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    kinds = [type(node) for node in body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    assert kinds.count(ast.Assign) + kinds.count(ast.AnnAssign) == 1
    assert set(kinds) <= {ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign}
    assert imports(file)
