"""Sweep files: what is refused, the points of the axes, the keys that a point sets."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cluster.sweeps.description import Sweep, load_sweep
from cluster.sweeps.points import all_labels, overrides, settings
from trainer.config import ConfigError, parse_override


def sweep(**tree: object) -> Sweep:
    return Sweep(name="s", config="a.yaml", **tree)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"axis": {}}, "unknown key 'axis'; did you mean 'axes'?"),
        ({"search": {"kimd": "grid"}}, "unknown key 'search.kimd'; did you mean 'kind'?"),
        ({"axes": {"method": []}}, "axes.method: expected a list of values"),
        ({"axes": {"training.seed": [0, 0]}}, "axes.training.seed: a value is listed twice"),
        ({"axes": {"pair": {"a": 3}}}, "axes.pair: 'a' is 3; give the keys it sets"),
        ({"axes": {"r": {"uniform": [2, 1]}}}, "axes.r: uniform takes [low, high]"),
        ({"axes": {"r": {"loguniform": [0, 1]}}}, "axes.r: loguniform takes [low, high] above 0"),
        ({"axes": {"r": {"int": [0.5, 1]}}}, "axes.r: int takes two whole numbers"),
        ({"axes": {"r": {"uniform": [0, 1]}}}, "r is a distribution, which a grid cannot list"),
        ({"search": {"kind": "random", "trials": 2}}, "no axis is one"),
        ({"search": {"kind": "random"}}, "search.trials: random needs their number"),
        ({"search": {"kind": "grid", "trials": 2}}, "search.trials: a grid has none"),
        ({"objective": "maP"}, "objective: no such score 'maP'; did you mean 'mAP'?"),
        ({"selection": "best"}, "selection: "),
        ({"name": "../up"}, "name: "),
        ({"early_stopping": {"grace": 3}}, "unknown key 'early_stopping.grace'"),
        ({"selection": "im", "objective": "snd"}, "objective: 'snd' beside selection 'im'"),
    ],
)
def test_a_mistake_is_named(tree, words, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"config": "a.yaml", **tree}))
    with pytest.raises(ConfigError) as caught:
        load_sweep(file)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_sweep_is_called_after_its_file(tmp_path):
    file = tmp_path / "pairs.yaml"
    file.write_text("config: a.yaml")
    assert load_sweep(file).name == "pairs"
    with pytest.raises(ConfigError, match="no such file; configs/sweeps/ holds ready ones"):
        load_sweep(tmp_path / "absent.yaml")


def test_a_grid_has_every_combination_in_the_order_of_the_axes():
    found = all_labels(sweep(axes={"b": [1, 2], "a": {"x": {"k": 1}, "y": {}}}))
    assert found == [
        {"b": 1, "a": "x"},
        {"b": 1, "a": "y"},
        {"b": 2, "a": "x"},
        {"b": 2, "a": "y"},
    ]
    assert [list(point) for point in found] == [["b", "a"]] * 4
    assert all_labels(sweep()) == [{}]


def test_draws_are_crossed_with_the_lists_and_stay_when_more_are_asked_for():
    axes = {"r": {"loguniform": [0.001, 0.1]}, "m": ["a", "b"], "n": {"int": [1, 3]}}
    few = all_labels(sweep(axes=axes, search={"kind": "random", "trials": 3, "seed": 1}))
    many = all_labels(sweep(axes=axes, search={"kind": "random", "trials": 40, "seed": 1}))
    other = all_labels(sweep(axes=axes, search={"kind": "random", "trials": 3, "seed": 2}))
    assert many[: len(few)] == few
    assert other != few
    assert [point["m"] for point in few] == ["a", "b"] * 3
    assert few[0]["r"] == few[1]["r"] != few[2]["r"]  # the same draws for all
    assert all(0.001 <= point["r"] <= 0.1 for point in many)
    assert {point["n"] for point in many} == {1, 2, 3}
    below = sum(point["r"] < 0.01 for point in many) / len(many)
    assert 0.25 < below < 0.75  # the logarithm is uniform: half of them


def test_a_point_sets_its_keys_above_those_of_all_cells():
    file = sweep(
        set={"training.steps": 5, "network.backbone": "tiny"},
        axes={"pair": {"x": {"training.steps": 9}, "y": {}}, "training.seed": [3]},
    )
    assert settings(file, {"pair": "x", "training.seed": 3}) == {
        "training.steps": 9,
        "network.backbone": "tiny",
        "training.seed": 3,
    }


def test_a_transfer_pair_prevails_over_the_files_own_selections():
    file = sweep(axes={"transfer": ["data/a -> data/b"]}, set={"transfer.protocol": "inductive"})
    chosen = settings(file, {"transfer": "data/a -> data/b"})
    found = overrides(chosen, "dann")
    assert found["data.source_images"]["root"] == "data/a"
    assert found["data.target_shapes"] == {"stream": "shape", "split": "train", "root": "data/b"}
    assert found["data.gallery"]["root"] == "data/b"
    assert found["data.dataset"] == "a-b"
    assert found["data.restrict"] is True
    assert "data.source_shapes" not in found  # dann has no such stream
    assert "data.classes" not in found  # the file's own class list stays
    assert "data.target_images" in overrides(chosen, "daisnet")


@pytest.mark.parametrize(
    ("value", "words"), [("a to b", "a pair looks like"), ("-> b", "a pair looks like")]
)
def test_what_is_no_pair_is_refused(value, words):
    with pytest.raises(ConfigError, match=words):
        settings(sweep(axes={"transfer": [value]}), {"transfer": value})


def test_an_unknown_key_of_a_pair_is_refused():
    with pytest.raises(ConfigError, match="transfer"):
        overrides({"transfer.source": "a", "transfer.target": "b", "transfer.protcol": "x"}, "dann")


def test_keys_of_a_command_line_are_typed():
    found = dict(map(parse_override, ["a.b=1", "c=[x, 2]", "d=null"]))
    assert found == {"a.b": 1, "c": ["x", 2], "d": None}
    with pytest.raises(ConfigError, match=r"training\.steps=50"):
        parse_override("steps")


def test_the_ready_sweep_files_can_be_read():
    folder = Path(__file__).resolve().parents[3] / "configs" / "sweeps"
    files = sorted(folder.glob("*.yaml"))
    assert files
    for file in files:
        assert load_sweep(file).name == file.stem
