"""The adapters, by the name that params.yaml and the stages use."""

from befa.adapters.base import Adapter
from befa.adapters.befa import BeFA
from befa.adapters.constant_gate import ConstantGate
from befa.adapters.lora import LoRA
from befa.adapters.none import Identity
from befa.adapters.random_features import RandomFeatures
from befa.adapters.shuffled_features import ShuffledFeatures
from befa.adapters.soft_prompt import SoftPrompt

ADAPTERS: dict[str, type[Adapter]] = {
    "none": Identity,
    "befa": BeFA,
    "lora": LoRA,
    "soft_prompt": SoftPrompt,
    "constant_gate": ConstantGate,
    "random_features": RandomFeatures,
    "shuffled_features": ShuffledFeatures,
}
