"""dvc.lock holds the demo's run, made by the code and the parameters beside it."""

from dvc.repo import Repo

from tests.imports import ROOT


def test_the_lock_is_of_this_code_and_these_parameters():
    """Else run `make demo` and commit dvc.lock. Outputs are not compared: another machine rounds otherwise."""
    stale = {}
    for stage in Repo(str(ROOT)).index.stages:
        if stage.addressing.endswith("@demo") or "@demo-" in stage.addressing:
            for dep in stage.deps:
                in_data = str(dep.def_path).startswith("data/")
                if not in_data and (changed := dep.status()):
                    stale[stage.addressing] = changed
    assert not stale
