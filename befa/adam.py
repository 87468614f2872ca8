"""Adam, without the compiler that torch's optimiser classes load."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""The paper's and torch's defaults."""


class Adam:
    """Adam (arXiv 1412.6980) with the paper's defaults and no weight decay: the bits of `torch.optim.Adam`, fused.

    The step is torch's own function. Its classes import torch._dynamo when one is made, which takes 4 s and 150 MB
    in every process that trains.

    A parameter that a batch gives no gradient stays where it is. With `coasting` it goes on by its momentum, once it
    has had a gradient: as under torch before 2.0, whose `zero_grad` left zeros (`protocol: mmrec`).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float, *, coasting: bool = False) -> None:
        self.learning_rate = learning_rate
        self._coasting = coasting
        self._parameters = list(parameters)
        self._state: dict[int, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        """Forgets all gradients; `coasting` leaves zeros."""
        for parameter in self._parameters:
            if self._coasting and parameter.grad is not None:
                parameter.grad.zero_()
            else:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Moves every parameter that has a gradient."""
        moved = {number: x for number, x in enumerate(self._parameters) if x.grad is not None}
        for number, x in moved.items():
            if number not in self._state:
                self._state[number] = {
                    "step": torch.zeros((), device=x.device),
                    "exp_avg": torch.zeros_like(x),
                    "exp_avg_sq": torch.zeros_like(x),
                }
        states = [self._state[number] for number in moved]
        adam(
            list(moved.values()),
            [x.grad for x in moved.values()],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,  # on a CPU a quarter of the time
            amsgrad=False,
            beta1=BETA1,
            beta2=BETA2,
            lr=self.learning_rate,
            weight_decay=0.0,
            eps=EPSILON,
            maximize=False,
        )

    def state(self) -> dict[str, Tensor]:
        """Step count and both moments of every parameter that was ever moved, by "<parameter's number>/<name>"."""
        return {f"{number}/{key}": x for number, state in self._state.items() for key, x in state.items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Takes up what `state` gave, on each parameter's device."""
        self._state = {}
        for name, tensor in tensors.items():
            number, key = name.split("/")
            self._state.setdefault(int(number), {})[key] = tensor.to(self._parameters[int(number)].device)
        if self._coasting:  # what was ever moved has had a gradient
            for number in self._state:
                self._parameters[number].grad = torch.zeros_like(self._parameters[number])
