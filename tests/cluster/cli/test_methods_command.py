"""``img2shape methods``: whatever is registered, with every option, from the classes alone."""

from __future__ import annotations

import pytest

from tests.command import call
from trainer.method_reference import describe
from trainer.methods import METHODS, MethodConfig
from trainer.sections import OptimizerConfig, TrainingConfig


def test_all_methods_are_listed(capfd):
    listed = call(capfd, "methods", "--json").json["methods"]
    assert [m["name"] for m in listed] == list(METHODS)
    for method in listed:
        cls = METHODS[method["name"]]
        assert method["paper"] == cls.paper
        assert method["summary"]
        assert list(method["streams"]) == list(cls.streams)
        assert "fields" not in method
        assert (method["balanced"] is not None) == cls.balanced
    shown = call(capfd, "methods")
    assert shown.code == 0
    assert all(f" {name} " in shown.out for name in METHODS)


def test_defaults_are_the_methods_own_over_the_sections(capfd):
    astn = call(capfd, "methods", "astn", "--json").json
    assert astn["streams"] == {
        "source_images": {"modality": "image", "labelled": True, "drawn": True},
        "target_shapes": {"modality": "shape", "labelled": False, "drawn": True},
    }
    own = METHODS["astn"].defaults
    assert astn["own_defaults"] == own
    assert astn["defaults"]["training"]["batch"] == own["training"]["batch"]
    assert astn["defaults"]["optimizer"]["weight_decay"] == OptimizerConfig().weight_decay
    plain = describe("source-only")["defaults"]
    assert plain["training"] == TrainingConfig().model_dump(mode="json")


@pytest.mark.parametrize("name", METHODS)
def test_every_option_is_shown_the_common_ones_last(name, capfd):
    method = call(capfd, "methods", name, "--json").json
    fields = {f["name"]: f for f in method["fields"]}
    assert fields.keys() == METHODS[name].Config.model_fields.keys()
    assert METHODS[name].Config(**{k: f["default"] for k, f in fields.items()})
    assert [f["common"] for f in method["fields"]] == sorted(f["common"] for f in method["fields"])
    assert {n for n, f in fields.items() if f["common"]} == set(MethodConfig.model_fields)
    assert all(f["type"] and f["description"] for f in fields.values())
    if method["balanced"]:
        rows = method["balanced"]["classes_per_batch"] * method["balanced"]["samples_per_class"]
        assert method["defaults"]["training"]["batch"] == rows
    shown = call(capfd, "methods", name)
    assert shown.code == 0
    assert all(f" method.{field} " in shown.out for field in fields)


def test_types_say_what_may_be_written(capfd):
    fields = {f["name"]: f for f in call(capfd, "methods", "astn", "--json").json["fields"]}
    assert fields["align"]["type"] == "center | instance"
    assert fields["theta"]["type"] == "float > 0, ≤ 1"
    assert fields["gated_stages"]["type"] == "list of str | null"
    assert fields["afe"]["type"] == "bool"
    shown = call(capfd, "methods", "astn").out
    assert "momentum=0.9*" in shown
    assert "weight_decay=0.0005\n" in shown


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_an_unknown_method_is_told_the_nearest(flags, capfd):
    done = call(capfd, "methods", "atsn", *flags)
    assert done.complaint == "unknown method 'atsn'; did you mean 'astn'?"
    assert done.out == ""
