"""The examples of docs/reference/metrics.md run, and every headline metric has one."""

from __future__ import annotations

import doctest
import re
from dataclasses import fields

import pytest

from evalsuite.scoring.options import CHOICES, HEADLINES, Options
from evalsuite.vectors.embeddings import EvaluationError
from tests.command import ROOT

PAGE = ROOT / "docs" / "reference" / "metrics.md"


def test_examples_give_what_the_page_shows():
    found = doctest.testfile(str(PAGE), module_relative=False)
    assert found.attempted > 30
    assert found.failed == 0


@pytest.mark.parametrize("metric", HEADLINES)
def test_every_metric_has_a_section_with_an_example(metric):
    sections = re.split(r"^###? ", PAGE.read_text(), flags=re.M)
    [section] = [text for text in sections if text.startswith(f"{metric}\n")]
    assert f'headline["{metric}"]' in section


def test_every_option_is_on_the_page():
    text = PAGE.read_text()
    for field in fields(Options):
        assert f"`{field.name}`" in text or f"{field.name}=" in text, field.name


@pytest.mark.parametrize("option", CHOICES)
def test_every_choice_of_every_option_is_on_the_page(option):
    text = PAGE.read_text()
    with pytest.raises(EvaluationError) as error:
        Options(**{option: "?"})
    for value in str(error.value).split("expected one of ")[1].split(", "):
        assert f"`{value}`" in text or f'"{value}"' in text, value
