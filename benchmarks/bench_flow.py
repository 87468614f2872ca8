"""What the flow costs: parallel against serial on trivial stages, and the no-op time of the project's own graph.

    python benchmarks/bench_flow.py [--seconds 20] [--jobs 2]

Each stage sleeps, or counts for so many seconds of CPU time. The reference of the same run: the same commands in bare
shells, as many at a time, which no scheduler can beat. The flow's time is without the start of Prefect's own server,
which is shown beside it and falls away where a server runs.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parent.parent
CHAINS, LENGTH = 2, 3
SLEEP = "python -c 'import time; time.sleep({seconds})'"
# CPU time, not a number of steps: a busy machine makes it longer, as it should.
COUNT = "python -c 'import time; n = 0\nwhile time.process_time() < {seconds}: n += 1'"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each stage")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    no_op()
    print(
        f"\n{CHAINS} chains of {LENGTH} stages of {options.seconds:g} s, --jobs {options.jobs}, {os.cpu_count()} cores"
    )
    print("| stages | bare shells | flow | over bare | dvc repro | server's start |\n|---|---:|---:|---:|---:|---:|")
    for name, command in (("sleep", SLEEP), ("count", COUNT)):
        with tempfile.TemporaryDirectory() as folder:
            reference = bare(command.format(seconds=options.seconds), options.jobs)
            start, flow = flow_times(project(Path(folder, "flow"), command, options), options.jobs)
            at = project(Path(folder, "serial"), command, options)
            serial = timed([sys.executable, "-m", "dvc", "repro", "-q"], at)
        over = f"{flow / reference - 1:.0%}"
        print(f"| {name} | {reference:.1f} s | {flow:.1f} s | {over} | {serial:.1f} s | {start:.1f} s |", flush=True)


def bare(command: str, jobs: int) -> float:
    """Seconds of all the stages' commands without DVC and Prefect."""

    def chain(_: int) -> None:
        for _ in range(LENGTH):
            subprocess.run(["/bin/sh", "-c", command], env=environment(), check=True)

    start = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(chain, range(CHAINS)))
    return time.monotonic() - start


def project(at: Path, command: str, options: argparse.Namespace) -> Path:
    """A DVC project of chains that do not touch each other, and a stage that needs them all."""
    at.mkdir()
    stages = []
    for chain in range(CHAINS):
        for place in range(LENGTH):
            body = command.format(seconds=options.seconds).replace("\n", "\n        ")
            before = f"{chain}-{place - 1}.txt" if place else "seed.txt"
            out = f"{chain}-{place}.txt"
            stages.append(
                f"  s{chain}-{place}:\n    cmd:\n    - |-\n        {body}\n    - echo {out} > {out}\n"
                f"    deps: [{before}]\n    outs: [{out}]\n"
            )
    ends = ", ".join(f"{chain}-{LENGTH - 1}.txt" for chain in range(CHAINS))
    stages.append(f"  all:\n    cmd: echo done > all.txt\n    deps: [{ends}]\n    outs: [all.txt]\n")
    for words in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(words, cwd=at, check=True)
    (at / "seed.txt").write_text("seed")
    (at / "dvc.yaml").write_text("stages:\n" + "".join(stages))
    return at


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "200",
        "DVC_NO_ANALYTICS": "1",
    }


def timed(words: list[str], at: Path, *, check: bool = True) -> float:
    start = time.monotonic()
    subprocess.run(words, cwd=at, env=environment(), check=check, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def flow_times(at: Path, jobs: int) -> tuple[float, float]:
    """Seconds until the flow begins (imports, server), and from there to its end."""
    words = [sys.executable, "-m", "pipelines", "run", "all", "--jobs", str(jobs)]
    begin, began, ended = time.monotonic(), 0.0, 0.0
    with subprocess.Popen(
        words, cwd=at, env=environment(), stderr=subprocess.STDOUT, stdout=subprocess.PIPE
    ) as process:
        for line in process.stdout:
            if b"Beginning flow run" in line:
                began = time.monotonic()
            if b"Finished in state" in line:
                ended = time.monotonic()
    if process.returncode:
        raise SystemExit("the flow failed")
    return began - begin, ended - began


def no_op() -> None:
    """`dvc status` and `run` where nothing is to be done, for the cells as listed and for another set of them."""
    print("\n| cells | stages | dvc status | run |\n|---|---:|---:|---:|")
    names = (["demo", "microlens", "hm"], ["clip_small", "clip"], ["lattice", "bm3", "freedom", "mgcn"])
    whole = list(product(*names, ["none", "befa", "lora", "soft_prompt"]))
    for name, cells in (("as listed", None), ("3 datasets x 2 encoders x 4 models x 4 adapters", whole)):
        with tempfile.TemporaryDirectory() as folder:
            at = Path(folder)
            stages = finished_project(at, cells)
            # Not checked: the report is of what is there whenever it is asked for, so it is never up to date.
            status = timed([sys.executable, "-m", "dvc", "status", "-q"], at, check=False)
            # Without those that are run whenever they are asked for, or whose tables it would print: they are no JSON.
            targets = [stage for stage in stages if not stage.startswith(("train_befa", "report"))]
            run = timed([sys.executable, "-m", "pipelines", "run", *targets], at)
        print(f"| {name} | {len(stages)} | {status:.1f} s | {run:.1f} s |", flush=True)


def finished_project(at: Path, cells: list[tuple[str, str, str, str]] | None) -> list[str]:
    """A copy of the project in which every stage is up to date, its outputs a line each; the stages' names."""
    for name in ("befa", "pipelines"):
        shutil.copytree(ROOT / name, at / name, ignore=shutil.ignore_patterns("__pycache__"))
    params = (ROOT / "params.yaml").read_text()
    if cells is not None:
        (at / "pipelines/cells.yaml").write_text(json.dumps(lists(cells)))  # YAML too
        tuned = {f"{d}-{e}-{m}": {} for d, e, m, _ in cells}
        params = re.sub(r"(?m)^tuned:\n(  .*\n)+", f"tuned: {json.dumps(tuned)}\n", params)
        params = re.sub(r"(?m)^  (tmall|microlens_titles): \{(encoder|modalities|<<: \*features).*\n", "", params)
        params = params.replace("  microlens: {encoder: clip}\n", "  microlens: {encoder: clip_small}\n")
    (at / "params.yaml").write_text(params)
    shutil.copy(ROOT / "dvc.yaml", at)
    shutil.copy(ROOT / ".dvcignore", at)
    for words in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(words, cwd=at, check=True)
    shutil.copytree(ROOT / ".dvc/plots", at / ".dvc/plots", dirs_exist_ok=True)
    return fill(at)


def lists(cells: list[tuple[str, str, str, str]]) -> dict[str, dict[str, dict[str, str]]]:
    """What pipelines/cells.yaml would hold for these cells."""
    names = ("dataset", "encoder", "model", "adapter")
    found = {
        "encodings": {f"{d}-{e}": {"dataset": d, "encoder": e, "kind": "open_clip"} for d, e, _, _ in cells},
        "cells": {"-".join(cell): dict(zip(names, cell, strict=True)) for cell in cells},
    }
    return found | {name: {} for name in ("controls", "tune", "sensitivities", "attribute", "distributions")}


def fill(at: Path) -> list[str]:
    from dvc.repo import Repo

    repo = Repo(str(at))
    graph = repo.index.graph
    for stage in graph:
        for out in stage.outs:
            path = Path(out.fs_path)
            if path.suffix:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(out.def_path)
            else:
                path.mkdir(parents=True, exist_ok=True)
                (path / "file").write_text(out.def_path)
    subprocess.run([sys.executable, "-m", "dvc", "commit", "-q", "-f"], cwd=at, env=environment(), check=True)
    return sorted(stage.name for stage in graph)


if __name__ == "__main__":
    main()
