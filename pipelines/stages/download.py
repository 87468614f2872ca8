"""Stage `download@<dataset>`: the raw files, fetched or generated, and a list of what they are."""

import shutil

from befa import config, downloads, tables
from befa.datasets import DatasetConfig
from befa.errors import lookup
from befa.paths import Layout
from befa.sources import SOURCES
from pipelines.progress import progress

LIST = "files.json"


def run(dataset: str, layout: Layout) -> None:
    """Puts the raw files of a dataset into data/raw; what an unfinished try left beside it is taken up."""
    params = config.read_params(layout.params)
    kind = config.load(params, f"datasets.{dataset}", DatasetConfig).kind
    source = lookup(SOURCES, kind, "kind of dataset")
    cfg = config.load(params, f"datasets.{dataset}.source", source.Config)
    raw = layout.raw(dataset)
    partial = raw.with_name(raw.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    with progress(f"download {dataset}", unit=source.UNIT) as report:
        names = source.fetch(cfg, partial, dataset=dataset, progress=report)
    for path in partial.iterdir():
        if path.name not in names:  # of another try, with other parameters
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with progress(f"checksums of {dataset}", unit="bytes") as report:
        came = [downloads.fetched_file(partial / name, name, report) for name in sorted(names)]
    tables.write_json(partial / LIST, {file.name: {"bytes": file.bytes, "sha256": file.sha256} for file in came})
    if raw.exists():
        shutil.rmtree(raw)
    partial.rename(raw)
