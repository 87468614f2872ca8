"""Wall times of what a user types: `make demo` from nothing but the environment, and DVC when there is nothing to do.

    .venv/bin/python benchmarks/bench_pipeline.py [--tests]

Works on a fresh clone of the committed tree in a temporary folder, with this checkout's environment linked in. The
reference of the same run is the start of DVC alone (`dvc version`), which no command can beat.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PATH": f"{ROOT / '.venv/bin'}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}


def seconds(*command: str, at: Path, quiet: bool = True) -> float:
    start = time.perf_counter()
    output = subprocess.PIPE if quiet else None
    ran = subprocess.run(command, cwd=at, env=ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT, text=True)
    if ran.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{ran.stdout}")
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tests", action="store_true", help="time `make test` too (minutes)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
        for name in (".venv", ".uv"):
            (clone / name).symlink_to(ROOT / name)
        reference = min(seconds("dvc", "version", at=clone) for _ in range(3))
        demo = seconds("make", "demo", at=clone, quiet=False)
        no_op = min(seconds("dvc", "repro", "train_befa@demo", at=clone) for _ in range(3))
        rows = [
            ("make demo", demo, "under 300"),
            ("no-op dvc repro train_befa@demo", no_op, "under 5"),
            ("dvc version (reference)", reference, ""),
        ]
        if arguments.tests:
            rows.append(("make test", seconds("make", "test", at=clone), "under 600"))
    print(f"\n{'command':45} {'seconds':>8} {'/ reference':>12}  goal")
    for name, value, goal in rows:
        print(f"{name:45} {value:8.1f} {value / reference:12.1f}  {goal}")


if __name__ == "__main__":
    main()
