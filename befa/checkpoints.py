"""A trained model's parameters on disk: one safetensors file per seed, which says what data it was trained on."""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from befa import tables
from befa.building import build, load_problem, load_valid
from befa.cell_names import cell_stage
from befa.cells import Cell
from befa.errors import TrainingError, first_line
from befa.metrics import Interactions
from befa.paths import Layout
from befa.problem import Problem

ABOUT = "about"
"""The one entry of a file's metadata, a JSON object: safetensors writes several entries in an order of chance."""


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, object]) -> None:
    """Writes tensors and `about`, whole or not at all; same content, same bytes. Raises TrainingError, or OSError."""
    with tables.whole(path) as part:
        cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        try:
            save_file(cpu, part, {ABOUT: json.dumps(dict(about))})
        except SafetensorError as error:  # what Python tells as an OSError
            mend = "see to the disk's space, and to the folder's rights"
            raise TrainingError(f"cannot be written ({error})", where=path, mend=mend) from None


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """What `write` wrote. Raises TrainingError when the file is absent or broken; runs no code from it."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()[ABOUT])
            return {name: file.get_tensor(name).clone() for name in file.keys()}, about  # noqa: SIM118
    except FileNotFoundError:
        raise TrainingError("no such checkpoint", where=path, mend="run its train stage (`dvc repro`)") from None
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        what = f"not a readable checkpoint ({first_line(error)})"
        raise TrainingError(what, where=path, mend="run its train stage again") from None


def data_sha256(problem: Problem, valid: Interactions) -> str:
    """SHA-256 of everything that a model is trained on and its best epoch chosen by; the same on every device."""
    digest = sha256(json.dumps([problem.n_users, problem.n_items, list(problem.contents)]).encode())
    contents = [x for content in problem.contents.values() for x in (content.values_Ic, content.present_I)]
    for tensor in (problem.users_E, problem.items_E, *contents):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    for array in (valid.offsets, valid.items_E):
        digest.update(array.tobytes())
    return digest.hexdigest()


def config_sha256(config: Mapping[str, Any], seed: int) -> str:
    """SHA-256 of a cell's configuration, as it is stored or to be stored, for one of its seeds.

    The others are left out: one more of them changes no checkpoint.
    """
    alone = {**config, "training": {**config["training"], "seeds": [seed]}}
    return sha256(json.dumps(alone, sort_keys=True).encode()).hexdigest()


def load_trained(layout: Layout, folder: Path, cell: Cell, seed: int, device: str = "cpu") -> tuple[nn.Module, Problem]:
    """The model of one seed of the run in `folder`, as training left it, and the problem it was trained on.

    Raises TrainingError when the checkpoint is absent, is not of the configuration beside it, or is of other data than
    the split and the features are now; and what `load_problem` raises.
    """
    problem = load_problem(layout, cell, seed, device)
    valid = load_valid(layout, cell, problem.n_users)
    path = layout.checkpoint(folder, seed)
    state, about = read(path)
    mend = f"run dvc repro {cell_stage('train', cell.dataset, cell.encoder, cell.model, cell.adapter)}"
    configuration = layout.configuration(folder)
    now = config_sha256(tables.read_json(configuration), seed)
    if about.get("config_sha256", now) != now:  # the first ones did not say
        raise TrainingError(f"trained with another configuration than {configuration.name} is", where=path, mend=mend)
    if about.get("data_sha256") != data_sha256(problem, valid):
        raise TrainingError("trained on another split, or on other features, than there are now", where=path, mend=mend)
    if not all(x.isfinite().all() for x in state.values()):
        raise TrainingError("a parameter is not finite: training has diverged", where=path, mend=mend)
    model = build(problem, cell, seed)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        what = f"the checkpoint does not fit its configuration ({first_line(error)})"
        raise TrainingError(what, where=path, mend=mend) from None
    return model.eval(), problem
