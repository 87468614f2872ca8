"""params.yaml is checked at the border: each mistake is one error that names the key and the mend."""

from dataclasses import field
from typing import Annotated, Literal

import pytest
from pydantic import Field

from befa import config
from befa.config import configuration
from befa.errors import ConfigError, nearest


@configuration
class Inner:
    learning_rate: Annotated[float, Field(gt=0)] = 0.001


@configuration
class Outer:
    core: Annotated[int, Field(ge=1)] = 10
    rule: Literal["random", "user_time"] = "random"
    cutoffs: tuple[int, ...] = (5, 10)
    since: str | None = None
    inner: Inner = Inner()
    named_or_given: str | Inner | None = None
    by_name: dict[str, Inner] = field(default_factory=dict)
    several: tuple[Inner, ...] = ()


def read(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return config.load(config.read_params(path), "outer", Outer)


def test_values_arrive_with_their_types(tmp_path):
    outer = read(
        tmp_path, "outer:\n  core: 5\n  cutoffs: [20, 50]\n  inner: {learning_rate: 1e-3}\n  since: 2020-09-16\n"
    )
    assert outer == Outer(core=5, cutoffs=(20, 50), inner=Inner(learning_rate=0.001), since="2020-09-16")


def test_numbers_are_finite(tmp_path):
    with pytest.raises(ConfigError, match=r"'outer\.inner\.learning_rate' is Infinity: .*finite number"):
        read(tmp_path, "outer: {inner: {learning_rate: .inf}}\n")


def test_a_plain_type_is_as_strict():
    with pytest.raises(ConfigError, match=r"'threads' is \"3\": input should be a valid integer"):
        config.load({"threads": "3"}, "threads", int | None)


def test_an_empty_block_is_one_of_defaults(tmp_path):
    assert read(tmp_path, "outer:\n") == Outer()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("outer: {cor: 5}", r"unknown key 'outer\.cor' in params\.yaml; did you mean 'core'\?"),
        (
            "outer: {inner: {learnin_rate: 0.1}}",
            r"unknown key 'outer\.inner\.learnin_rate'.*did you mean 'learning_rate'\?",
        ),
        (
            "outer: {named_or_given: {learnin_rate: 1}}",
            r"unknown key 'outer\.named_or_given\.learnin_rate' in .*did you mean 'learning_rate'\?",
        ),
        ("outer: {named_or_given: {learning_rate: a}}", r"'outer\.named_or_given\.learning_rate' is \"a\": "),
        ("outer: {named_or_given: 5}", r"'outer\.named_or_given' is 5: "),
        ("outer: {by_name: {a.b: {learnin: 1}}}", r"unknown key 'outer\.by_name\.a\.b\.learnin'.*'learning_rate'\?"),
        ("outer: {several: [{}, {learnin: 1}]}", r"unknown key 'outer\.several\.1\.learnin'.*'learning_rate'\?"),
        ("outer: {core: '5'}", r"'outer\.core' is \"5\": input should be a valid integer"),
        ("outer: {core: true}", r"'outer\.core' is true"),
        ("outer: {core: 0}", r"'outer\.core' is 0: input should be greater than or equal to 1"),
        ("outer: {rule: time}", r"'outer\.rule' is \"time\": input should be 'random' or 'user_time'"),
        ("outre: {}", r"no 'outer' under the top level in params\.yaml; is 'outre' meant to be it\? rename it"),
        ("inner: {}", r"no 'outer' under the top level in params\.yaml; add it \(there: inner\)"),
        ("outer: [", r"not valid YAML \(.*, line 2\) in .*params\.yaml"),
        ("outer: {core: 1, core: 2}", r"not valid YAML \(found duplicate key \"core\" .*, line 1\)"),
        ("outer: {since: 2020-02-30}", r"not valid YAML \(day is out of range for month\)"),
        ("outer: {cutoffs: 5}", r"'outer\.cutoffs' is 5: a list is wanted, such as \[1, 2\]"),
        ("outer: {inner: 5}", r"'outer\.inner' is 5: a block of `key: value` lines is wanted"),
        ("- 1", r"the top level is not a mapping"),
    ],
)
def test_a_mistake_is_one_error_with_its_mend(tmp_path, text, says):
    with pytest.raises(ConfigError, match=says):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("datasets: {2024: {}}", "the key 2024 under datasets is no text in .*; write '2024'"),
        ("datasets: {my shop: {}}", "'my shop' under datasets cannot be the name of a stage or folder"),
        ("encoders: {a/b: {}}", "'a/b' under encoders cannot be the name of a stage or folder in .*; take letters"),
    ],
)
def test_a_name_that_no_stage_can_have_is_an_error(tmp_path, text, says):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        config.read_params(tmp_path / "params.yaml")


def test_a_list_of_known_names_ends_where_nobody_reads_on():
    said = nearest("train_befa@dmo", [*(f"stage{n}" for n in range(900)), "train_befa@demo"])
    assert said.startswith("did you mean 'train_befa@demo'?")
    assert said.endswith(" and 861 more)")


def test_a_missing_file_says_where_to_run(tmp_path):
    with pytest.raises(ConfigError, match=r"no parameter file in .*params\.yaml; run from the top of the project"):
        config.read_params(tmp_path / "params.yaml")
