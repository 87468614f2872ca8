"""The recommenders, by the name that params.yaml and the stages use."""

from befa.models.bm3 import BM3
from befa.models.bpr import BPR
from befa.models.freedom import Freedom
from befa.models.item_knn import ItemKNN
from befa.models.lattice import Lattice
from befa.models.lattice_released import LatticeReleased
from befa.models.lightgcn import LightGCN
from befa.models.mgcn import MGCN
from befa.models.vbpr import VBPR
from befa.problem import Recommender, ScoringRecommender

MODELS: dict[str, type[Recommender] | type[ScoringRecommender]] = {
    "lattice": Lattice,
    "bm3": BM3,
    "freedom": Freedom,
    "mgcn": MGCN,
    "vbpr": VBPR,
    "lattice_released": LatticeReleased,
    "bpr": BPR,
    "lightgcn": LightGCN,
    "item_knn": ItemKNN,
}
