"""What the cells of the experiment left on disk, and how far each can be believed to be of today's code and data."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from safetensors import SafetensorError, safe_open

from befa import tables
from befa.cell_names import Listed
from befa.errors import DataError
from befa.paths import Layout

Status = Literal["current", "stale", "absent", "unlisted"]
"""`current`: made by this code, these parameters and data. `stale`: by others. `absent`: not made yet. `unlisted`: not
in the graph."""


@dataclass(frozen=True)
class State:
    """How a cell's result stands to the project as it is now."""

    status: Status
    detail: str = ""
    """What has changed, or what is missing first."""


@dataclass(frozen=True)
class Result:
    """One evaluated cell."""

    metrics: dict[str, Any]
    """Its metrics.json."""
    folder: Path
    parameters: int | None
    """Numbers that training may change; None where the checkpoints are not here."""
    seconds: float | None
    """Of wall time per epoch, validation included; None where no timing was kept (it is no artifact), or no epoch was
    left to the process that kept it."""
    machine: str
    """What that was measured on."""
    protocol: str
    """Under which it was trained and scored; empty where its configuration is not here."""

    def mean(self, metric: str) -> float:
        """Of the test part, over seeds."""
        return self.metrics["test"][metric]

    def deviation(self, metric: str) -> float | None:
        """Sample standard deviation over seeds; None with one."""
        return self.metrics["deviation"]["test"][metric] if "deviation" in self.metrics else None

    @property
    def seeds(self) -> int:
        """How many."""
        return len(self.metrics["seeds"])

    def per_user(self) -> pa.Table:
        """Metrics by user and seed."""
        return tables.read_table(Layout.per_user(self.folder))


@dataclass(frozen=True)
class Study:
    """What a stage found out about a model with an adapter, beside the same model without."""

    dataset: str
    encoder: str
    model: str
    adapter: str
    stage: str
    """That makes it: attribute@demo-clip_small-bm3-befa."""
    state: State
    measures: Mapping[str, Any]
    """Its JSON; empty where it has not been made."""


def read(layout: Layout, cell: Listed) -> Result | None:
    """The cell's result; None where it has none. Raises DataError for files that cannot be read."""
    folder = layout.run(cell.dataset, cell.encoder, cell.model, cell.adapter)
    if not layout.metrics(folder).exists():
        return None
    timing, configuration = layout.timing(folder), layout.configuration(folder)
    about = tables.read_json(timing) if timing.exists() else {}
    if not configuration.exists() or about.get("config_sha256") != sha256(configuration.read_bytes()).hexdigest():
        about = {}  # DVC has brought another training's result, and leaves what is not its own
    return Result(
        metrics=tables.read_json(layout.metrics(folder)),
        folder=folder,
        parameters=_parameters(sorted(layout.checkpoint(folder, 0).parent.glob("*.safetensors"))),
        seconds=about["seconds"] / about["epochs"] if about.get("epochs") else None,
        machine=f"{about['device']}, {about['threads']} thread{'s' * (about['threads'] > 1)}" if about else "",
        protocol=tables.read_json(configuration).get("protocol", "") if configuration.exists() else "",
    )


def _parameters(checkpoints: Iterable[Path]) -> int | None:
    """From the first checkpoint's header; its values are not read."""
    for path in checkpoints:
        try:
            with safe_open(path, "pt") as file:
                return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        except SafetensorError:
            raise DataError("not a readable checkpoint", where=path, mend="run its train stage again") from None
    return None
