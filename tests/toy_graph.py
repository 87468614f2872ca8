"""A DVC project of stages that do next to nothing, for tests of what is read from its graph."""

import subprocess

from dvc.cli import main
from dvc.repo import Repo


def initialised(folder):
    """Makes `folder` a repository of Git and DVC."""
    subprocess.run(["git", "init", "-q", folder], check=True)
    Repo.init(str(folder)).close()


def toy_project(folder, graph):
    """Makes the project in `folder`, with `graph` for dvc.yaml and `seed.txt` to start from."""
    initialised(folder)
    (folder / "dvc.yaml").write_text(graph)
    (folder / "seed.txt").write_text("seed")
    return folder


def dvc(*words):
    """Runs `dvc` in the current folder, in this process: a second less than in one of its own."""
    assert main(list(words)) == 0
