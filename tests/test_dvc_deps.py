"""Nothing a stage imports escapes its deps: DVC reruns nothing when code outside them changes."""

import ast

import pytest
from dvc.repo import Repo

from befa import config
from befa.adapters import ADAPTERS
from befa.encoders import ENCODERS
from befa.models import MODELS
from befa.sources import SOURCES
from tests.imports import REGISTRIES, ROOT, closure, imports

MEMBER_FILES = {
    "model": {name: cls.__module__.rpartition(".")[2] for name, cls in MODELS.items()},
    "adapter": {name: cls.__module__.rpartition(".")[2] for name, cls in ADAPTERS.items()},
    "encoder": {name: cls.__module__.rpartition(".")[2] for name, cls in ENCODERS.items()},
    "dataset": {name: module.__name__.rpartition(".")[2] for name, module in SOURCES.items()},
}


def stages():
    return {stage.addressing: stage for stage in Repo(str(ROOT)).index.stages}


def members(arguments):
    """The registry members that a stage's command line picks: dataset, encoder, model, adapter."""
    params = config.read_params(ROOT / "params.yaml")
    names = dict(zip(("dataset", "encoder", "model", "adapter"), arguments, strict=False))
    chosen = {"dataset": MEMBER_FILES["dataset"][params["datasets"][names["dataset"]]["kind"]]}
    if "encoder" in names:
        chosen["encoder"] = MEMBER_FILES["encoder"][params["encoders"][names["encoder"]]["kind"]]
    if "model" in names:
        chosen["model"] = MEMBER_FILES["model"][names["model"]]
        chosen["adapter"] = MEMBER_FILES["adapter"][names["adapter"]]
    return chosen


@pytest.mark.parametrize("name", sorted(stages()))
def test_deps_are_the_code_that_runs(name):
    stage = stages()[name]
    command, *arguments = stage.cmd.removeprefix("python -m pipelines ").split()
    wanted = closure(f"pipelines/stages/{command}.py", members(arguments))
    declared = {dep.def_path for dep in stage.deps if str(dep.def_path).endswith(".py")}
    missing, needless = sorted(wanted - declared), sorted(declared - wanted)
    assert not missing, f"{name} runs {missing}: add them to its deps in dvc.yaml"
    assert not needless, f"{name} does not run {needless}: drop them from its deps in dvc.yaml"


@pytest.mark.parametrize("file", sorted(REGISTRIES))
def test_a_registry_holds_names_and_nothing_else(file):
    """It is in nobody's deps (a new model must not rerun the old ones), so nothing may hide in it."""
    body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    kinds = [type(node) for node in body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    assert kinds.count(ast.Assign) + kinds.count(ast.AnnAssign) == 1
    assert set(kinds) <= {ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign}
    assert imports(file)
