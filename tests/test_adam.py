"""befa.adam against torch's class."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from befa.adam import Adam
from befa.rng import stream
from tests.small_project import small_project


def trained(
    make, steps: int = 20, *, other_after: int | None = None, forget: bool = True
) -> tuple[list[torch.Tensor], object]:
    """Three parameters after steps at two rates; the last has a gradient in every third step only."""
    rng = stream(1, "values")
    parameters = [nn.Parameter(torch.randn(shape, generator=rng)) for shape in ((5, 3), (4,), (2, 2))]
    optimizer = make(parameters, 0.01)
    for step in range(steps):
        if step == other_after:
            state, optimizer = optimizer.state(), make(parameters, 0.01)
            for parameter in parameters:
                parameter.grad = None
            optimizer.load_state(state)
        rate = 0.01 if step < steps // 2 else 0.003
        if isinstance(optimizer, Adam):
            optimizer.learning_rate = rate
        else:
            optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad() if forget else optimizer.zero_grad(set_to_none=False)
        used = parameters if step % 3 == 0 else parameters[:2]
        sum((x * torch.randn(x.shape, generator=rng)).square().sum() for x in used).backward()
        optimizer.step()
    return [x.detach() for x in parameters], optimizer


def test_it_takes_the_steps_of_torchs_class():
    theirs, _ = trained(lambda parameters, rate: torch.optim.Adam(parameters, lr=rate, fused=True))
    ours, optimizer = trained(Adam)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    steps = {name: int(value) for name, value in optimizer.state().items() if name.endswith("step")}
    assert steps == {"0/step": 20, "1/step": 20, "2/step": 7}


def coasting(parameters, rate):
    return Adam(parameters, rate, coasting=True)


def test_it_takes_the_steps_of_torchs_class_before_gradients_were_none():
    theirs, _ = trained(lambda parameters, rate: torch.optim.Adam(parameters, lr=rate, fused=True), forget=False)
    ours, optimizer = trained(coasting)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert int(optimizer.state()["2/step"]) == 20
    assert not torch.equal(ours[2], trained(Adam)[0][2])


@pytest.mark.parametrize("make", [Adam, coasting])
def test_its_state_is_taken_up_by_another(make):
    for whole, resumed in zip(trained(make)[0], trained(make, other_after=7)[0], strict=True):
        assert torch.equal(whole, resumed)


def test_training_does_not_load_torchs_compiler(tmp_path):
    """It takes seconds and 150 MB in every process that trains."""
    small_project(tmp_path, epochs=2)
    program = """
import sys
from pathlib import Path

from befa.paths import Layout
from pipelines.stages import train
from tests.small_project import NAMES

train.run(*NAMES, Layout(Path(sys.argv[1])))
sys.exit("torch._dynamo" in sys.modules)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program, tmp_path], cwd=Path(__file__).parent.parent, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
