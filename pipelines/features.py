"""What the two stages that fill feature stores share: the engine that params.yaml asks for, and what is reported."""

import logging

import pyarrow as pa
import torch

from befa import config, coverage, features, tables
from befa.devices import device_for
from befa.encoding import EncodeConfig, Engine, LocalEngine
from befa.feature_store import Modality
from befa.images import ImageFiles
from befa.paths import Layout
from pipelines.encoding import configured, fetched, loading_of, one_thread, require_identified
from pipelines.progress import progress

log = logging.getLogger(__name__)


def engine(
    layout: Layout, dataset: str, encoder: str, modality: Modality, files: ImageFiles | None, device: str | None = None
) -> Engine:
    """What encodes a dataset's modality, as the block `encode` of params.yaml has it; `device` goes before its own."""
    settings = config.load(config.read_params(layout.params), "encode", EncodeConfig)
    loading = loading_of(layout, dataset, encoder)
    shared = {"batch_size": loading.config.batch_size, "workers": settings.workers}
    wanted = device or settings.device
    if settings.engine == "ray":
        from befa.ray_engine import RayEngine

        cluster = {"partitions": settings.partitions, "address": settings.address, "device": wanted}
        found: Engine = RayEngine(loading, modality, files, **shared, **cluster)
    else:
        here = device_for(wanted)
        found = LocalEngine(fetched(encoder, loading, here), modality, files, **shared)
        log.info("%s on %s%s", encoder, here, _unused_gpus(here))
    require_identified(layout, dataset, encoder, found.about.identity)
    return found


def encode(
    dataset: str, encoder: str, modality: Modality, items: pa.Table, files: ImageFiles | None, layout: Layout,
    device: str | None,
) -> None:  # fmt: skip
    """Brings a dataset's store of one modality up to date; says what it holds, and how fast it was made."""
    path = layout.features(dataset, encoder, modality)
    kind, _ = configured(config.read_params(layout.params), dataset, encoder)
    if modality not in kind.modalities:
        log.info("%s encodes no %ss: its store says of every item that it has none", encoder, modality)
        items = items.set_column(1, modality, pa.nulls(len(items), pa.string()))
    one_thread()
    encoding = engine(layout, dataset, encoder, modality, files, device)
    with progress(f"encode {modality}s") as report:
        outcome = features.encode(
            path,
            items,
            encoding,
            modality=modality,
            dataset=dataset,
            encoder_name=encoder,
            progress=report,
        )
    tables.write_json(layout.coverage(dataset, encoder, modality), coverage.report(path))
    tables.write_json(layout.speed(dataset, encoder, modality), outcome.speed.report())
    log.info("%ss: %s", modality, ", ".join(f"{name} {count:,}" for name, count in outcome.counts.items()))
    log.info("%.1f s; a process each: %s", outcome.speed.seconds, outcome.speed)


def _unused_gpus(device: str) -> str:
    there = torch.cuda.device_count() if device == "cuda" else 0
    return f" (one of {there} GPUs; encode.engine: ray takes all)" if there > 1 else ""
