"""A DVC project of stages that do next to nothing, for tests of what is read from its graph."""

import subprocess
import sys


def toy_project(folder, graph):
    """Makes the project in `folder`, the current one, with `graph` for dvc.yaml and `seed.txt` to start from."""
    subprocess.run(["git", "init", "-q"], check=True)
    dvc("init", "-q")
    (folder / "dvc.yaml").write_text(graph)
    (folder / "seed.txt").write_text("seed")
    return folder


def dvc(*words):
    """Runs `dvc` in the current folder."""
    subprocess.run([sys.executable, "-m", "dvc", *words], check=True)
