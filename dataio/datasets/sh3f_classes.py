"""Names of furniture to classes: ordered rules of words in a YAML file that a user can replace."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from dataio.names import canonical_name
from dataio.records import DataError

SHIPPED = Path(__file__).with_name("sh3f_classes.yaml")
_EXPECTED = "expected a list of rules {class: chair, words: [chair, stool]}"


class Rule(NamedTuple):
    """Names with one of these words are of this class; None leaves them out."""

    label: str | None
    words: re.Pattern[str]


def read_rules(file: Path, *, dataset: str) -> list[Rule]:
    """The rules of a file, in order; DataError naming file, rule and remedy if it holds no such."""
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{dataset}: classes: no file {str(file)!r}; give a file of rules, or a list of the "
            "classes to keep, classes=[bed,chair]"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{dataset}: {str(file)!r} is not readable YAML ({reason})") from error
    if not isinstance(tree, list) or not tree:
        raise DataError(f"{dataset}: {str(file)!r}: {_EXPECTED}")
    return [_rule(one, f"{dataset}: {str(file)!r}: rule {k}") for k, one in enumerate(tree, 1)]


def label_of(name: str, rules: Sequence[Rule]) -> str | None:
    """The class of a thing by its name; None if no rule, or a rule without a class, matches."""
    return next((rule.label for rule in rules if rule.words.search(name)), None)


def _rule(tree: object, where: str) -> Rule:
    if not isinstance(tree, dict) or set(tree) != {"class", "words"}:
        raise DataError(f"{where}: {_EXPECTED}")
    label, words = tree["class"], tree["words"]
    if label is not None and not (isinstance(label, str) and canonical_name(label)):
        raise DataError(f"{where}: class {label!r} is no name; write a word, or null for none")
    if not (isinstance(words, list) and words and all(isinstance(w, str) and w for w in words)):
        raise DataError(f"{where}: words {words!r} are no list of words; quote numbers and yes, no")
    phrases = (r"\s+".join(map(re.escape, word.split())) for word in words)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(phrases)})(?:e?s)?(?!\w)", re.IGNORECASE)
    return Rule(None if label is None else canonical_name(label), pattern)
