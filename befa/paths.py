"""Where every artifact lies that more than one stage, or command, knows."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

WRITTEN_BY = {
    r"raw/([^/]+)/.+": r"download@\1",
    r"filtered/([^/]+)/.+": r"filter@\1",
    r"splits/([^/]+)\.parquet": r"split@\1",
    r"media/([^/]+)/.+": r"media@\1",
    r"features/([^/]+)/([^/]+)/(image|text)\..+": r"encode_\3s@\1-\2",
    r"runs/([^/]+)/([^/]+)/([^/]+)/([^/]+)/(?:metrics\.json|per_user\.parquet)": r"evaluate@\1-\2-\3-\4",
}
"""Files below data/, and the stages that write them; of a control's, evaluate_control."""


def stage_of(path: Path) -> str:
    """The stage that writes the file `path`; STAGE where that is not known."""
    _, _, below = path.as_posix().rpartition("data/")
    found = ((re.fullmatch(pattern, below), stage) for pattern, stage in WRITTEN_BY.items())
    return next((match.expand(stage) for match, stage in found if match), "STAGE")


@dataclass(frozen=True)
class Layout:
    """The files of one project checkout; `root` is its top folder."""

    root: Path = Path()

    @property
    def params(self) -> Path:
        """params.yaml, every number that changes a result."""
        return self.root / "params.yaml"

    @property
    def cells(self) -> Path:
        """The lists of cells that the graph has."""
        return self.root / "pipelines/cells.yaml"

    @property
    def data(self) -> Path:
        """Folder of everything that DVC versions."""
        return self.root / "data"

    def raw(self, dataset: str) -> Path:
        """Folder of what was downloaded or generated."""
        return self.root / "data/raw" / dataset

    def media(self, dataset: str) -> Path:
        """Folder of pictures (references, and what was fetched from the web) and of vectors made elsewhere."""
        return self.root / "data/media" / dataset

    def vectors(self, dataset: str, modality: str) -> Path:
        """Parquet feature store of a modality whose vectors were made elsewhere."""
        return self.media(dataset) / "vectors" / f"{modality}.parquet"

    def references(self, dataset: str) -> Path:
        """Parquet of item and image: where each item's picture is, below data/."""
        return self.media(dataset) / "pictures/references.parquet"

    def given(self, dataset: str) -> Path:
        """What modalities whose vectors were made elsewhere cover, by name, as JSON."""
        return self.media(dataset) / "vectors/modalities.json"

    def filtered(self, dataset: str) -> Path:
        """Folder of what the filter left."""
        return self.root / "data/filtered" / dataset

    def interactions(self, dataset: str) -> Path:
        """Parquet of the interactions by dense ids, with their times."""
        return self.filtered(dataset) / "interactions.parquet"

    def users(self, dataset: str) -> Path:
        """Parquet of the users' raw ids, in the order of the dense ones."""
        return self.filtered(dataset) / "users.parquet"

    def items(self, dataset: str) -> Path:
        """Parquet of the items' raw ids, in the order of the dense ones, with texts and images."""
        return self.filtered(dataset) / "items.parquet"

    def certificate(self, dataset: str) -> Path:
        """What every step of the filter left, as JSON."""
        return self.filtered(dataset) / "stats.json"

    def split(self, dataset: str) -> Path:
        """Parquet of user, item, split."""
        return self.root / "data/splits" / f"{dataset}.parquet"

    def weights(self, dataset: str, encoder: str) -> Path:
        """Folder of an encoder as that dataset uses it: its description and, if trained here, its weights."""
        return self.root / "data/weights" / dataset / encoder

    def encoder_identity(self, dataset: str, encoder: str) -> Path:
        """What identifies a pre-trained encoder's weights, as JSON; absent where the project trained the encoder."""
        return self.weights(dataset, encoder) / "encoder.json"

    @property
    def downloaded(self) -> Path:
        """Folder of weights that are downloaded, once for all datasets; no output of a stage, so DVC neither empties it
        between tries nor pushes what others own."""
        return self.root / "data/weights/downloaded"

    def features(self, dataset: str, encoder: str, modality: str) -> Path:
        """Parquet feature store of one modality."""
        return self.root / "data/features" / dataset / encoder / f"{modality}.parquet"

    def encoders(self, dataset: str) -> list[str]:
        """Those by which the dataset's features were made, in the order of their names."""
        return sorted(path.name for path in (self.root / "data/features" / dataset).glob("*/") if path.is_dir())

    def index(self, dataset: str, encoder: str, modality: str) -> Path:
        """Index for similarity search. Not beside its store: DVC knows what lies there, and would ask about it."""
        return self.root / "data/indexes" / dataset / encoder / modality / "vectors.index"

    def coverage(self, dataset: str, encoder: str, modality: str) -> Path:
        """What a feature store holds, as JSON."""
        return self.root / "data/features" / dataset / encoder / f"{modality}.coverage.json"

    def speed(self, dataset: str, encoder: str, modality: str) -> Path:
        """How fast a store was made, as JSON; of no stage's outputs, as it differs from run to run."""
        return self.root / "data/speed" / dataset / encoder / f"{modality}.json"

    def run(self, dataset: str, encoder: str, model: str, adapter: str) -> Path:
        """Folder of one cell: checkpoints, history, configuration, metrics."""
        return self.root / "data/runs" / dataset / encoder / model / adapter

    @staticmethod
    def checkpoint(run: Path, seed: int) -> Path:
        """The trained parameters of one seed, in the folder of a cell."""
        return run / "checkpoints" / f"{seed}.safetensors"

    @staticmethod
    def configuration(run: Path) -> Path:
        """What a cell was trained with, as JSON; read back by `Cell.read`."""
        return run / "config.json"

    @staticmethod
    def timing(run: Path) -> Path:
        """How long a cell's training took, and on what, as JSON; of no stage's outputs, as it differs each time."""
        return run / "timing.json"

    @staticmethod
    def metrics(run: Path) -> Path:
        """A cell's metrics, as JSON."""
        return run / "metrics.json"

    @staticmethod
    def per_user(run: Path) -> Path:
        """Parquet of a cell's metrics of every test user."""
        return run / "per_user.parquet"

    @staticmethod
    def training(run: Path) -> Path:
        """Folder of what trainings under way have reached; no output of a stage, so DVC keeps it between tries."""
        return run / "training"

    def code(self, stage: str) -> Path:
        """The hashes of the code that all cells of a stage share."""
        return self.root / "data/code" / f"{stage}.json"

    def attribution(self, dataset: str, encoder: str, model: str, adapter: str) -> Path:
        """Folder of a cell's heatmaps, beside those without adapter, and of how well they meet known objects."""
        return self.root / "data/attribution" / dataset / encoder / model / adapter

    def scores(self, dataset: str, encoder: str, model: str, adapter: str) -> Path:
        """How well a cell's heatmaps meet known objects, as JSON."""
        return self.attribution(dataset, encoder, model, adapter) / "scores.json"

    def distribution(self, dataset: str, encoder: str, model: str, adapter: str) -> Path:
        """How a cell's content lies, beside that without adapter, as JSON; the picture is beside it, as .png."""
        return self.report(dataset) / encoder / "distribution" / f"{model}-{adapter}.json"

    def pictures(self, of: Literal["sensitivity", "distribution", "attribute", "tune"]) -> dict[str, Path]:
        """Pictures that a stage has made, by what stands behind the @ in the stage's name, in its order."""
        folder, pattern, names = {
            "sensitivity": (self.reports, "*/*/sensitivity/*.png", (0, 1, 3)),
            "distribution": (self.reports, "*/*/distribution/*.png", (0, 1, 3)),
            "attribute": (self.root / "data/attribution", "*/*/*/*/heatmaps.png", (0, 1, 2, 3)),
            "tune": (self.root / "data/tuning", "*/*/*/*.png", (0, 1, 2, 3)),
        }[of]
        parts_of = {path: path.relative_to(folder).with_suffix("").parts for path in sorted(folder.glob(pattern))}
        return {"-".join(parts[place] for place in names): path for path, parts in parts_of.items()}

    @property
    def reports(self) -> Path:
        """Folder of all tables and figures."""
        return self.root / "data/reports"

    @property
    def experiment(self) -> Path:
        """Folder of the report on the whole experiment."""
        return self.reports / "experiment"

    def tuning(self, dataset: str, encoder: str, model: str, adapter: str) -> Path:
        """What tuning tried for a cell and for that without adapter, as JSON; the picture is beside it, as .png."""
        return self.root / "data/tuning" / dataset / encoder / model / f"{adapter}.json"

    def study(self, dataset: str, encoder: str, model: str, adapter: str) -> Path:
        """A cell's trials, as SQLite; of no stage's outputs, so DVC keeps them between tries."""
        return self.root / "data/tuning/studies" / dataset / encoder / model / f"{adapter}.sqlite"

    def sensitivity(self, dataset: str, encoder: str, model: str) -> Path:
        """A model's metrics over BeFA's width, as JSON; the picture is beside it, as .png."""
        return self.report(dataset) / encoder / "sensitivity" / f"{model}.json"

    def report(self, dataset: str) -> Path:
        """Folder of a dataset's tables."""
        return self.root / "data/reports" / dataset

    def table(self, dataset: str, name: Literal["table_1", "overlap", "befa"]) -> Path:
        """One of a dataset's tables, as JSON; it is beside it as Markdown, as .md."""
        return self.report(dataset) / f"{name}.json"
