"""Pictures of figures, of the same bytes for the same figure."""

from pathlib import Path
from typing import TYPE_CHECKING

from befa.tables import whole

if TYPE_CHECKING:  # it takes a second to load
    from matplotlib.figure import Figure


def save(figure: "Figure", path: Path, *, dpi: int) -> None:
    """Writes a PNG that does not say which version drew it."""
    with whole(path) as part:
        figure.savefig(part, format="png", dpi=dpi, metadata={"Software": None})
