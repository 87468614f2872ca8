"""Stage `code_<stage>`: the hashes of the code that all cells of a stage share, in one file.

DVC looks at every dep of every stage: with this file in place of forty, a graph of hundreds of cells loads in a third
of the time. A member of a registry (a model, an adapter, an encoder) is in the deps of its own cells instead.
"""

from hashlib import sha256

from befa import tables
from befa.errors import ConfigError, nearest
from befa.paths import Layout
from pipelines.imports import ROOT, shared


def run(stage: str, layout: Layout) -> None:
    """Writes the SHA-256 of each file. Raises ConfigError for an unknown stage."""
    if not (ROOT / "pipelines/stages" / f"{stage}.py").exists():
        known = sorted(path.stem for path in (ROOT / "pipelines/stages").glob("[a-z]*.py"))
        raise ConfigError(f"no stage {stage!r}", mend=nearest(stage, known))
    files = {file: sha256((ROOT / file).read_bytes()).hexdigest() for file in sorted(shared(stage))}
    tables.write_json(layout.code(stage), files)
