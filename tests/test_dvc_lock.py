"""dvc.lock holds the demo's run, made by the code and the parameters beside it."""

from dvc.repo import Repo
from ruamel.yaml import YAML

from pipelines.imports import ROOT


def test_the_lock_is_of_this_code_and_these_parameters():
    """Else run `make demo` and commit dvc.lock. Outputs are not compared: another machine rounds otherwise."""
    locked = set(YAML(typ="safe").load(ROOT / "dvc.lock")["stages"])
    assert {"train_befa@demo", "table_1@demo", "overlap@demo"} <= locked
    stale = {}
    for stage in Repo(str(ROOT)).index.stages:
        if stage.addressing in locked:
            for dep in stage.deps:
                in_data = str(dep.def_path).startswith("data/")
                if not in_data and (changed := dep.status()):
                    stale[stage.addressing] = changed
    assert not stale
