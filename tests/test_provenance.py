"""What is up to date, where only a part of the artifacts is here."""

import shutil

import pytest
from dvc.repo import Repo

from pipelines import provenance
from tests.toy_graph import dvc, toy_project

GRAPH = """
stages:
  raw:
    cmd: mkdir raw && cp seed.txt raw/
    deps: [seed.txt]
    outs: [raw]
  media:
    cmd: mkdir -p media && cp raw/seed.txt media/pictures.txt && cp raw/seed.txt media/vectors.txt
    deps: [raw]
    outs: [media/pictures.txt, media/vectors.txt]
  heat:
    cmd: cat media/pictures.txt media/vectors.txt > heat.txt
    deps: [media]
    outs: [heat.txt]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = toy_project(tmp_path, GRAPH)
    dvc("repro", "-q", "heat")
    return made


def state():
    with provenance.read() as known:
        found = known.state("heat")
    return found.status, found.detail


def test_a_result_is_current_where_what_it_was_made_from_is_neither_here_nor_in_the_cache(project):
    """As after `dvc pull heat` in a clone, and where a remote has no raw data."""
    assert state() == ("current", "")
    for folder in ("raw", "media"):
        shutil.rmtree(folder)
    assert state() == ("current", "")
    shutil.rmtree(".dvc/cache")
    assert state() == ("current", "")
    (project / "media").mkdir()
    (project / "media/pictures.txt").write_text("seed")  # one of the two was fetched
    assert state() == ("current", "")


def test_what_is_here_and_other_than_what_was_made_is_stale(project):
    shutil.rmtree(".dvc/cache")
    (project / "media/pictures.txt").write_text("other")
    assert state()[0] == "stale"
    assert "media/pictures.txt modified" in state()[1]
    shutil.rmtree("media")
    (project / "seed.txt").write_text("other")
    assert state() == ("stale", "seed.txt modified")


def test_looking_takes_no_lock_that_a_repro_would_have_to_wait_for(project):
    with Repo().lock:  # neither waits for whoever has it
        assert state() == ("current", "")


def test_a_result_that_is_not_here_names_what_is_missing_first(project):
    (project / "heat.txt").unlink()
    assert state() == ("absent", "heat")
    shutil.rmtree("raw")
    assert state() == ("absent", "raw")
