"""Where every artifact's folder lies, and every file that more than one stage reads by name."""

from dataclasses import dataclass
from pathlib import Path


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

    def filtered(self, dataset: str) -> Path:
        """Folder of interactions.parquet, users.parquet, items.parquet and stats.json."""
        return self.root / "data/filtered" / dataset

    def split(self, dataset: str) -> Path:
        """Parquet of user, item, split."""
        return self.root / "data/splits" / f"{dataset}.parquet"

    def weights(self, dataset: str, encoder: str) -> Path:
        """Folder of an encoder as that dataset uses it: its description and, if trained here, its weights."""
        return self.root / "data/weights" / dataset / encoder

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
    def training(run: Path) -> Path:
        """Folder of what trainings under way have reached; no output of a stage, so DVC keeps it between tries."""
        return run / "training"

    def code(self, stage: str) -> Path:
        """The hashes of the code that all cells of a stage share."""
        return self.root / "data/code" / f"{stage}.json"

    def attribution(self, dataset: str, encoder: str, model: str, adapter: str) -> Path:
        """Folder of a cell's heatmaps, beside those without adapter, and of how well they meet known objects."""
        return self.root / "data/attribution" / dataset / encoder / model / adapter

    def distribution(self, dataset: str, encoder: str, model: str, adapter: str) -> Path:
        """How a cell's content lies, beside that without adapter, as JSON; the picture is beside it, as .png."""
        return self.report(dataset) / encoder / "distribution" / f"{model}-{adapter}.json"

    @property
    def heatmaps(self) -> list[Path]:
        """Pictures of heatmaps that have been made, of all cells."""
        return list((self.root / "data/attribution").glob("*/*/*/*/heatmaps.png"))

    @property
    def tunings(self) -> list[Path]:
        """Pictures of tunings that have been made, of all cells."""
        return sorted((self.root / "data/tuning").glob("*/*/*/*.png"))

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
