"""The recommenders, by the name that params.yaml and the stages use."""

from befa.models.bm3 import BM3
from befa.models.freedom import Freedom
from befa.models.lattice import Lattice
from befa.models.mgcn import MGCN

MODELS: dict[str, type] = {"lattice": Lattice, "bm3": BM3, "freedom": Freedom, "mgcn": MGCN}
