"""The adapters, by the name that params.yaml and the stages use."""

from befa.adapters.base import Adapter
from befa.adapters.befa import BeFA
from befa.adapters.none import Identity

ADAPTERS: dict[str, type[Adapter]] = {"none": Identity, "befa": BeFA}
