"""Criteria on the way: their values, what they may see, and which checkpoint they choose."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataio.loading.loader import walk
from tests.spawn import run_alone, run_processes
from tests.trainer.choosing.test_criteria import SLOW
from tests.trainer.test_loop import log, run, state
from tests.trainer.test_loop import small as unscored
from tests.trainer.validation.test_validation import facts, scores
from trainer.building import build_method
from trainer.choosing.criteria import CRITERIA
from trainer.choosing.selection import usable_criteria
from trainer.config import ConfigError, RunConfig, parse_config
from trainer.extraction.trained_run import load_run
from trainer.inputs.open_data import OpenData
from trainer.inputs.streams import to_domain
from trainer.loop import Trainer
from trainer.methods import METHODS
from trainer.runs.run_folder import RunFolder
from trainer.validation.criterion_scores import criterion_score, criterion_sources, whole_logits

WITHOUT = ("siamese", "dcml", "dca", "coral", "gfk", "jgsa", "meda", "zero-shot")
CPU = torch.device("cpu")


def small(
    root: Path, method: str, criterion: str | None, *, validation: Any = None, **training: Any
) -> RunConfig:
    tree = unscored(root, method, **training).to_dict()
    tree["validation"] |= {"every": 2, "criterion": criterion, **(validation or {})}
    tree["evaluation"]["batch"] = 7
    return parse_config(tree)


def values_on_rank(rank: int, world_size: int, root: Path) -> tuple[dict[str, float], bool]:
    """All criteria of an untrained DAIS-NET, whose parts are uneven and partly empty."""
    found, hidden = {}, True
    for names in (("entropy", "im", "snd"), ("source-val",)):  # each on the same streams
        config = small(root, "daisnet", names[0], precision="float64")
        torch.manual_seed(0)
        method = build_method(config, num_classes=len(OpenData(config).classes)).eval()
        options = {"batch": 7, "dtype": torch.float64, "device": CPU, "on_part": lambda: None}
        with torch.no_grad():
            sources = criterion_sources(OpenData(config))
            streams = [whole_logits(method, source, **options) for source in sources.values()]
        assert len(streams) == 2
        found |= {name: criterion_score(name, streams) for name in names}
        visible = torch.cat([stream.labels for stream in streams]) >= 0
        hidden &= bool(visible.all() if names == ("source-val",) else not visible.any())
    return found, hidden


@pytest.mark.parametrize("world_size", [2, 3])
def test_values_do_not_depend_on_the_number_of_ranks(benchmark, world_size):
    ((expected, hidden),) = run_processes(values_on_rank, 1, benchmark)
    assert hidden, "labels of the target reach the criterion"
    for found, also in run_processes(values_on_rank, world_size, benchmark):
        assert also
        assert found == pytest.approx(expected, rel=1e-9)


def logits_by_hand(folder: RunFolder, name: str, split: str) -> tuple[torch.Tensor, list[int]]:
    """Of the newest checkpoint, one sample after the other."""
    trained, rows, labels = load_run(folder.path), [], []
    selection = getattr(trained.config.data, name).model_copy(update={"split": split})
    manifest = OpenData(trained.config).manifest(selection)
    (source,) = criterion_sources(OpenData(trained.config)).values()
    source = replace(source, rows=manifest.select(selection.stream, split), labelled=True)
    with torch.no_grad():
        for part in walk(source, batch=1):
            domain = to_domain(part, source, device=CPU, dtype=torch.float32)
            shapes = name.endswith(("shapes", "gallery"))
            embed = trained.method.embed_gallery if shapes else trained.method.embed_queries
            rows.append(trained.method.network.classifier(embed(domain.pixels)))
            labels += part.label.tolist()
    return torch.cat(rows), labels


@pytest.mark.parametrize(
    ("method", "criterion", "name", "split"),
    [
        ("astn", "snd", "target_shapes", "train"),
        ("source-only", "im", "gallery", "train"),
        ("source-only", "source-val", "source_images", "val"),
    ],
)
def test_the_score_is_that_of_the_checkpoint_and_training_sees_nothing_of_it(
    benchmark, tmp_path, method, criterion, name, split
):
    folder = run(small(benchmark, method, criterion, steps=4), tmp_path / "run")
    logits, labels = logits_by_hand(folder, name, split)
    if criterion == "source-val":
        chosen = [max(range(len(row)), key=row.__getitem__) for row in logits.tolist()]
        expected = sum(a == b for a, b in zip(chosen, labels, strict=True)) / len(labels)
    else:
        expected = SLOW[criterion](logits.double())
    last = scores(folder)[-1]
    assert last["scores"][criterion] == pytest.approx(expected, rel=1e-5)
    assert last["criterion"] == f"{name}/{split}"
    assert facts(folder)[4]["scores"] == last["scores"]
    silent = run(unscored(benchmark, method, steps=4), tmp_path / "silent")
    assert log(folder) == log(silent)
    assert folder.read()["identity"] == silent.read()["identity"]
    ours, theirs = state(folder), state(silent)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_without_a_metric_no_label_of_the_target_has_an_effect(benchmark, monkeypatch, tmp_path):
    """With the shapes' labels exchanged and those of the queries gone, the score is the same."""
    config = small(benchmark, "astn", "im", validation={"metric": None})

    def scored(name: str) -> dict[str, float]:
        trainer = Trainer(config, RunFolder(tmp_path / name), device=CPU)
        trainer.folder.path.mkdir(exist_ok=True)
        with torch.no_grad():
            trainer.observers.validation.score(trainer.method.eval(), step=2)
        return trainer.observers.validation.known(2)

    before = scored("as-they-are")
    assert before.keys() == {"im"}
    manifest = OpenData(config).manifest(config.data.queries)
    labels = manifest.labels.copy()
    shapes = manifest.streams == "shape"
    labels[shapes] = labels[shapes][::-1]
    labels[~shapes & (manifest.splits != "train")] = None
    altered = replace(manifest, labels=labels)
    monkeypatch.setattr("trainer.inputs.open_data.load_manifest", lambda root: altered)
    assert scored("altered") == before
    with pytest.raises(Exception, match="has no label"):  # which the oracle reads
        Trainer(small(benchmark, "astn", "im"), RunFolder(tmp_path / "oracle"), device=CPU)


def test_the_best_by_criterion_and_by_metric_stay_and_are_told_apart(
    benchmark, tmp_path, monkeypatch
):
    metric, criterion = iter([0.2, 0.9, 0.5, 0.4, 0.3, 0.1]), iter([0.8, 0.7, 0.6, 0.3, 0.4, 0.5])
    monkeypatch.setattr(
        "trainer.validation.validation.Validation._scored", lambda *_: {"mAP": next(metric)}
    )
    monkeypatch.setattr("trainer.validation.validation.criterion_score", lambda *_: next(criterion))
    config = small(benchmark, "source-only", "entropy", steps=12, keep_last=1)
    folder = run(config, tmp_path / "run")
    assert sorted(facts(folder)) == [4, 8, 12]
    chosen = {s: load_run(folder.path, select=s) for s in ("last", "oracle", "entropy")}
    assert {s: r.checkpoint.step for s, r in chosen.items()} == {
        "last": 12,
        "oracle": 4,
        "entropy": 8,  # lower is better
    }
    told = {s: r.scored and (r.scored.selection, r.scored.by_oracle) for s, r in chosen.items()}
    assert told == {
        "last": None,
        "oracle": ("oracle (mAP on val)", True),
        "entropy": ("entropy on gallery/train", False),
    }
    with pytest.raises(ConfigError, match=r"--select im; train with .*validation\.criterion=im"):
        load_run(folder.path, select="im")


def test_scores_by_another_criterion_are_made_up_for(benchmark, tmp_path):
    """A run that goes on under another criterion scores the checkpoint it starts from again."""
    folder = run(small(benchmark, "source-only", "im"), tmp_path / "run", stop_after=4)
    assert "im" in facts(folder)[4]["scores"]
    due = {}
    for criterion, more in (("im", {}), ("snd", {}), (None, {}), (None, {"split": "test"})):
        config = small(benchmark, "source-only", criterion, validation=more)
        trainer = Trainer(config, folder, device=CPU)
        due[criterion, more.get("split", "val")] = trainer.observers.validation.due(4)
        trainer.observers.checkpoints.close()
    assert due == {
        ("im", "val"): False,
        ("snd", "val"): True,
        (None, "val"): False,
        (None, "test"): True,
    }


def test_every_method_with_a_classifier_gives_logits_of_both_sides(benchmark):
    for name in METHODS:
        assert usable_criteria(name) == (() if name in WITHOUT else CRITERIA)
        if name in WITHOUT:
            continue
        method = build_method(small(benchmark, name, "im"), num_classes=6).eval()
        images, shapes = torch.randn(2, 3, 64, 64), torch.randn(3, 2, 3, 64, 64)
        with torch.no_grad():
            of_images, of_shapes = method.class_logits(images), method.class_logits(shapes)
        assert (of_images.shape, of_shapes.shape) == ((2, 6), (3, 6))
        f = method.embed_gallery(shapes).detach()
        network: Any = method.network  # DAIS-NET's classifier serves both trunks
        expected = f @ network.classifier.weight.T + network.classifier.bias
        torch.testing.assert_close(of_shapes, expected.detach())


@pytest.mark.parametrize("name", WITHOUT)
def test_a_method_without_a_classifier_is_refused(benchmark, name):
    words = (
        f"{name} has no classifier, which criterion 'im' needs; use validation.criterion=null"
        if not METHODS[name].has_classifier
        else f"{name} is fitted after its last step, .*use validation.criterion=null"
    )
    tree = {"validation": {"every": 200, "criterion": "im"}, "data": {"root": str(benchmark)}}
    with pytest.raises(ConfigError, match=words):
        parse_config({"method": name, **tree})


@pytest.mark.parametrize(
    ("validation", "words"),
    [
        ({"every": None}, "criterion: 'im' is computed every validation.every steps"),
        ({"criterion": None, "metric": None}, "every: neither metric nor criterion is set"),
        ({"criterion": "imm"}, r"validation\.criterion: .*'entropy', 'im', 'snd' or 'source-val'"),
    ],
)
def test_a_criterion_that_would_do_nothing_is_refused(benchmark, validation, words):
    with pytest.raises(ConfigError, match=words):
        small(benchmark, "astn", "im", validation=validation)


def test_missing_samples_are_told_with_the_remedy(benchmark, monkeypatch):
    everything = small(benchmark, "astn", "source-val").to_dict()
    everything["data"]["source_images"]["split"] = "all"
    with pytest.raises(ConfigError, match="trains on split 'all', so that split 'val' is not held"):
        criterion_sources(OpenData(parse_config(everything)))
    config = small(benchmark, "source-only", "source-val")
    manifest = OpenData(config).manifest(config.data.queries)
    splits = np.where(manifest.splits == "test", "test", "all-but-test")
    monkeypatch.setattr(
        "trainer.inputs.open_data.load_manifest", lambda root: replace(manifest, splits=splits)
    )
    with pytest.raises(ConfigError, match=r"no image of split 'val' for .*; choose entropy, im or"):
        criterion_sources(OpenData(config))
    with pytest.raises(ConfigError, match=r"no shape of split 'train' for data\.gallery; .*source"):
        criterion_sources(OpenData(small(benchmark, "source-only", "snd")))


def by_strategy(root: Path, out: Path) -> list[float]:
    """The last score under each engine."""
    found = []
    for name, stage in (("ddp", 0), ("deepspeed", 1), ("deepspeed", 3)):
        tree = small(root, "dann", "im", steps=2, validation={"metric": None}).to_dict()
        tree["strategy"] |= {"name": name, "zero_stage": stage}
        folder = run(parse_config(tree), out / f"{name}{stage}")
        found.append(scores(folder)[-1]["scores"]["im"])
    return found


@pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"
)
def test_the_value_is_the_same_under_every_engine(benchmark, tmp_path):
    plain, *others = run_alone(by_strategy, benchmark, tmp_path)
    assert others == pytest.approx([plain] * 2, rel=1e-4)
