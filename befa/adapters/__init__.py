"""The adapters, by the name that params.yaml and the stages use."""

from befa.adapters.base import Adapter
from befa.adapters.befa import BeFA
from befa.adapters.befa_fixed import BeFAFixed
from befa.adapters.constant_gate import ConstantGate
from befa.adapters.learned_width import LearnedWidth
from befa.adapters.lora import LoRA
from befa.adapters.none import Identity
from befa.adapters.none_fixed import NoneFixed
from befa.adapters.random_features import RandomFeatures
from befa.adapters.shuffled_features import ShuffledFeatures
from befa.adapters.soft_prompt import SoftPrompt

ADAPTERS: dict[str, type[Adapter]] = {
    "none": Identity,
    "befa": BeFA,
    "lora": LoRA,
    "soft_prompt": SoftPrompt,
    "learned_width": LearnedWidth,
    "constant_gate": ConstantGate,
    "random_features": RandomFeatures,
    "shuffled_features": ShuffledFeatures,
    "none_fixed": NoneFixed,
    "befa_fixed": BeFAFixed,
}
