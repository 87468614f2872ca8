"""The cells that pipelines/cells.yaml lists, and the names by which the graph knows them."""

from collections.abc import Mapping
from typing import Any, Literal

from befa import config
from befa.config import configuration
from befa.errors import ConfigError
from befa.paths import Layout

GROUPS = ("cells", "controls")
"""The blocks of pipelines/cells.yaml that list cells."""

LEADERS = {
    "constant_gate": "befa",
    "random_features": "befa",
    "shuffled_features": "befa",
    "befa_fixed": "befa",
    "none_fixed": "none",
}
"""Controls, and the adapter whose tuned settings they have: a control differs from it in one thing alone."""


def group_of(adapter: str) -> Literal["cells", "controls"]:
    """The block that lists cells with this adapter."""
    return "controls" if adapter in LEADERS else "cells"


@configuration
class Listed:
    """A line of `cells` or `controls` in pipelines/cells.yaml."""

    dataset: str
    encoder: str
    model: str
    adapter: str

    @property
    def name(self) -> str:
        """Its name in the graph."""
        return cell_name(self.dataset, self.encoder, self.model, self.adapter)


def cell_name(dataset: str, encoder: str, model: str, adapter: str) -> str:
    """A cell's name in the graph: `dvc repro evaluate@<name>`."""
    return f"{dataset}-{encoder}-{model}-{adapter}"


def cell_stage(step: Literal["train", "evaluate"], dataset: str, encoder: str, model: str, adapter: str) -> str:
    """What to tell DVC to train or to evaluate a cell: `dvc repro <this>`. A control's stages have other names."""
    kind = f"{step}_control" if adapter in LEADERS else step
    return f"{kind}@{cell_name(dataset, encoder, model, adapter)}"


def host_name(dataset: str, encoder: str, model: str) -> str:
    """What cells with the same model on the same features share."""
    return f"{dataset}-{encoder}-{model}"


def listed(lists: Mapping[str, Any]) -> dict[str, Listed]:
    """The cells and controls of pipelines/cells.yaml by name.

    Raises ConfigError for a line of another cell's name, or under the other heading.
    """
    found, where = {}, Layout().cells
    for group in GROUPS:
        for name in lists.get(group) or {}:
            cell = found[name] = config.load(lists, f"{group}.{name}", Listed, where=str(where))
            if cell.name != name:
                raise ConfigError(f"{group}.{name} is a line of {cell.name}", where=where, mend="rename it")
            if (belongs := group_of(cell.adapter)) != group:
                what = f"{name} stands under `{group}`"
                raise ConfigError(what, where=where, mend=f"put it under `{belongs}`, whose stages run that adapter")
    return found
