"""Run descriptions: overrides, clear refusals, a stable identity, ready files that parse."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from trainer.config import ConfigError, RunConfig, load_config, parse_config
from trainer.methods import METHODS
from trainer.sections import STREAM_NAMES

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Besides the runs' own files there are those of many runs: tables and sweeps.
RUNS = [
    path
    for path in sorted(CONFIGS.rglob("*.yaml"))
    if path.relative_to(CONFIGS).parts[0] not in ("figures", "tables", "sweeps")
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text("method:\n  name: astn\ntraining:\n  steps: 10\n")
    return path


@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.stem)
def test_ready_configs_parse_and_name_their_command(path):
    config = load_config(path)
    assert (config.training.steps > 0) == METHODS[config.method_name].trains
    relative = path.relative_to(CONFIGS.parent)
    assert f"img2shape train {relative}" in path.read_text()


def test_overrides_reach_every_level(file):
    config = load_config(
        file,
        [
            "training.seed=3",
            "steps=7",
            "method.align=instance",
            "data.augment.flip=0",
            "data.queries.split=val",
            "network.weights=none",
        ],
    )
    assert (config.training.seed, config.training.steps) == (3, 7)
    assert config.method.align == "instance"
    assert config.data.augment.flip == 0
    assert (config.data.queries.stream, config.data.queries.split) == ("image", "val")


def test_method_shorthand(file):
    assert load_config(file, ["method=dann"]).method_name == "dann"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainin.steps=5", "unknown key 'trainin'; did you mean 'training'"),
        ("training.stebs=5", "unknown key 'training.stebs'; did you mean 'steps'"),
        ("method.alfa=1", "unknown key 'method.alfa'; did you mean 'alpha'"),
        ("data.augment.flipp=1", "did you mean 'flip'"),
        ("data.queries.splitt=val", "did you mean 'split'"),
        ("method=atsn", "unknown method 'atsn'; did you mean 'astn'"),
        ("training.steps=-1", "training.steps: Input should be greater than or equal to 0"),
        ("network.backbone=vgg", "network.backbone: no trunk 'vgg'"),
        ("training.steps=0", "training.steps: 0 trains nothing; set init_from"),
        ("training.steps", "section.key=value"),
    ],
)
def test_bad_overrides_say_what_is_wrong(file, override, message):
    with pytest.raises(ConfigError) as error:
        load_config(file, [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: {name: dann}\nseed: 1\nseed: 2", "'seed' stands twice from line 1 on"),
        ("method:\n  name: dann\n  name: astn", "'name' stands twice from line 2 on"),
        ("a: [", "not readable as YAML"),
        ("- 1", "expected sections"),
        ("{}", "method.name"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "absent.yaml")


def test_a_resolved_config_reads_back_as_itself(file, tmp_path):
    config = load_config(file, ["method.alpha=0.5"])
    again = tmp_path / "again.yaml"
    again.write_text(config.to_yaml())
    assert load_config(again) == config
    assert load_config(again).identity == config.identity


def test_identity_follows_what_shapes_the_weights_and_nothing_else(file):
    identity = load_config(file).identity
    for same in (
        "training.log_every=3",
        "training.loader_workers=2",
        "data.queries.split=val",
        "evaluation.metric=cosine",
        "data.root=/elsewhere",
    ):
        assert load_config(file, [same]).identity == identity, same
    for other in (
        "training.seed=1",
        "method.theta=0.5",
        "optimizer.momentum=0",
        "training.batch=8",
        "data.target_shapes.split=val",
        "network.pool=mean",
    ):
        assert load_config(file, [other]).identity != identity, other


def documented(model: type[BaseModel]) -> None:
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            documented(kind)
        assert info.description or model is RunConfig, f"{model.__name__}.{name}"


@pytest.mark.parametrize("model", [RunConfig, *(m.Config for m in METHODS.values())])
def test_every_field_is_documented(model):
    documented(model)


def test_missing_method_is_refused():
    with pytest.raises(ConfigError, match=r"method\.name is missing"):
        parse_config({"training": {"steps": 1}})


def test_silent_keys_get_the_methods_own_settings():
    config = parse_config({"method": "astn", "optimizer": {"momentum": 0.5}})
    assert (config.training.steps, config.training.batch) == (20000, 76)
    assert (config.optimizer.learning_rate, config.optimizer.momentum) == (0.01, 0.5)
    assert parse_config(config.to_dict()) == config


@pytest.mark.parametrize("name", METHODS)
def test_defaults_and_streams_of_every_method(name):
    config = parse_config({"method": name})
    for section, values in METHODS[name].defaults.items():
        for key, value in values.items():
            assert getattr(getattr(config, section), key) == value
    for stream in STREAM_NAMES:
        assert (getattr(config.data, stream) is not None) == (stream in METHODS[name].streams)
    assert parse_config(config.to_dict()) == config
    assert parse_config(config.to_dict()).identity == config.identity


def test_streams_that_a_method_cannot_use_are_refused_in_a_sentence():
    with pytest.raises(ConfigError) as error:
        parse_config({"method": "dann", "data": {"source_shapes": {"split": "train"}}})
    assert str(error.value) == (
        "config: data.source_shapes: dann trains on labelled images (source_images) and "
        "unlabelled shapes (target_shapes); leave it out"
    )
    with pytest.raises(ConfigError) as error:
        parse_config({"method": "dann", "data": {"target_shapes": {"stream": "image"}}})
    assert str(error.value) == (
        "config: data.target_shapes.stream: 'image' are images, but dann trains on labelled "
        "images (source_images) and unlabelled shapes (target_shapes)"
    )


@pytest.mark.parametrize("name", [n for n in METHODS if METHODS[n].balanced])
def test_balanced_methods_set_the_batch(name):
    tree = {"method": {"name": name, "classes_per_batch": 3, "samples_per_class": 5}}
    assert parse_config(tree).training.batch == 15
    with pytest.raises(ConfigError, match=r"= 15 rows, not 16; leave training\.batch out"):
        parse_config({**tree, "training": {"batch": 16}})


def documented_ablations() -> list[tuple[str, str]]:
    """Configuration and overrides of every row of the papers' tables in docs/methods."""
    found = []
    for page in sorted((CONFIGS.parent / "docs" / "methods").glob("*.md")):
        _, heading, rest = page.read_text().partition("\n## Rows of the paper's tables: `")
        config = rest.partition("`")[0]
        for line in rest.splitlines() if heading else []:
            if line.startswith("| ") and not line.startswith("| table"):
                found.append(
                    (config, line.rstrip("| ").split("| ")[-1].strip("` ") if "`" in line else "")
                )
    return found


def test_every_paper_has_its_rows():
    assert {config.rpartition("/")[2] for config, _ in documented_ablations()} == {
        f"{name}.yaml" for name in ("astn", "hifa", "ftspl", "dca", "daisnet")
    }


@pytest.mark.parametrize(("config", "overrides"), documented_ablations())
def test_every_row_of_the_papers_ablations_is_a_configuration(config, overrides):
    load_config(CONFIGS.parent / config, overrides.split())
