"""What the encoder stages share: an encoder's configuration, by name, and the item table it is for."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import torch
from PIL import Image

from befa import config, tables
from befa.encoders import ENCODERS
from befa.encoders.base import Encoder, Loading
from befa.errors import ConfigError, EncoderError, lookup
from befa.images import ImageError, ImageFiles, decode
from befa.paths import Layout
from pipelines.progress import progress


def configured(params: Mapping[str, Any], dataset: str, encoder: str) -> tuple[type, Any]:
    """The encoder's class and its configuration. Raises ConfigError for an unknown dataset, encoder or kind."""
    lookup(config.block(params, "datasets"), dataset, "dataset")
    block = lookup(config.block(params, "encoders"), encoder, "encoder")
    if not isinstance(block, Mapping) or "kind" not in block:
        raise ConfigError(
            f"encoders.{encoder} has no `kind`", where="params.yaml", mend=f"known: {', '.join(ENCODERS)}"
        )
    kind = lookup(ENCODERS, block["kind"], "kind of encoder")
    return kind, config.load(params, f"encoders.{encoder}", kind.Config)


def is_trained_here(cfg: Any) -> bool:
    """Whether the project trains the encoder of configuration `cfg` on the catalogue; others come as they are."""
    return getattr(cfg, "weights", None) == "trained"


def loaded(layout: Layout, dataset: str, encoder: str, device: str = "cpu") -> Encoder:
    """The encoder as a dataset uses it; see `require_identified`."""
    loading = loading_of(layout, dataset, encoder)
    network = fetched(encoder, loading, device)
    require_identified(layout, dataset, encoder, network.identity)
    return network


def fetched(encoder: str, loading: Loading, device: str) -> Encoder:
    """The encoder, with a progress line where its weights have yet to be downloaded: there are gigabytes of some."""
    with progress(f"weights of {encoder}", "bytes") as report:
        return loading(device, report)


def loading_of(layout: Layout, dataset: str, encoder: str) -> Loading:
    """How the encoder is loaded as a dataset uses it."""
    kind, cfg = configured(config.read_params(layout.params), dataset, encoder)
    folder = layout.weights(dataset, encoder) if is_trained_here(cfg) else layout.downloaded
    return Loading(kind, folder.resolve(), cfg)


def require_identified(layout: Layout, dataset: str, encoder: str, identity: Mapping[str, str]) -> None:
    """Raises EncoderError when the encoder is not the one that the stage `encoder` identified.

    DVC watches no file outside of the project, nor the downloaded ones, so that one of these may have been replaced.
    """
    described = layout.encoder_identity(dataset, encoder)
    # Absent where the project trained the encoder, and while the stage `encoder` runs: DVC removes what it wrote.
    identified = tables.read_json(described) if described.is_file() else identity
    changed = [key for key in identity if identified.get(key) != identity[key]]
    if changed:
        raise EncoderError(
            f"the encoder is another one than its stage identified (first difference: {changed[0]})",
            where=described,
            mend=f"put the former weights back, or run `dvc repro --force encoder@{dataset}-{encoder}`",
        )


def one_thread() -> None:
    """One CPU thread for the towers: sums in one order on any machine, and two stages that do not stall each other."""
    torch.set_num_threads(1)


def picture_table(layout: Layout, dataset: str) -> tuple[pa.Table, ImageFiles]:
    """Raw item ids and their pictures' references, and the files that these refer to."""
    references = tables.read_table(layout.references(dataset))
    return references, ImageFiles(layout.data.resolve())


def picture(files: ImageFiles, reference: str | None) -> Image.Image | None:
    """The picture, or None where there is none that can be read (the feature store counts these)."""
    try:
        return None if reference is None else decode(files.read(reference))
    except ImageError:
        return None


def item_table(layout: Layout, dataset: str) -> pa.Table:
    """Raw item ids and texts of the filtered catalogue."""
    return tables.read_table(layout.items(dataset), ["item", "text"])
