"""What the encoder stages share: an encoder's configuration, by name, and the item table it is for."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import torch

from befa import config, tables
from befa.encoders import ENCODERS
from befa.errors import ConfigError, lookup
from befa.images import ImageFiles
from befa.paths import Layout


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


def loaded(layout: Layout, dataset: str, encoder: str) -> tuple[Any, Any]:
    """The encoder as a dataset uses it, ready to encode, and its configuration."""
    kind, cfg = configured(config.read_params(layout.params), dataset, encoder)
    downloads = getattr(cfg, "weights", None) == "download"
    return kind.load(layout.downloaded if downloads else layout.weights(dataset, encoder), cfg), cfg


def one_thread() -> None:
    """One CPU thread for the towers: sums in one order on any machine, and two stages that do not stall each other."""
    torch.set_num_threads(1)


def picture_table(layout: Layout, dataset: str) -> tuple[pa.Table, ImageFiles]:
    """Raw item ids and their pictures' references, and the files that these refer to."""
    return tables.read_table(layout.media(dataset) / "pictures/references.parquet"), ImageFiles(layout.data)


def item_table(layout: Layout, dataset: str, column: str) -> pa.Table:
    """Raw item ids and one more column ("text") of the filtered catalogue."""
    return tables.read_table(layout.filtered(dataset) / "items.parquet", ["item", column])
