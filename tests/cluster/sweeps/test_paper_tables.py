"""The papers' tables: every published row in its place, cells that parse, rows as documented."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.sweeps.points import Point
from cluster.sweeps.tables.paper_tables import load_table, published_row, table_names
from cluster.sweeps.tables.table_description import DATA_CHOICES, DataChoice, PaperTable
from cluster.sweeps.tables.table_points import (
    place_of,
    require_packed,
    table_benchmarks,
    table_folders,
    table_points,
    table_skips,
)
from evalsuite.published import all_complexity, all_figures, published_figures
from tests.command import ROOT
from tests.trainer.test_config import documented_ablations
from trainer.config import ConfigError, RunConfig, load_config

TABLES = ROOT / "configs" / "tables"
NAMES = table_names()
SITES = DATA_CHOICES
RETRIEVAL = [name for name in NAMES if load_table(name).kind == "retrieval"]


def config_of(point: Point) -> RunConfig:
    return loaded(point.config, point.keys)


@lru_cache(maxsize=1024)
def loaded(config: Path, keys: tuple[str, ...]) -> RunConfig:
    return load_config(config, keys)


def described(config: RunConfig) -> str:
    """A run without its seed, the network that it starts from, and where DAIS-NET's mAP ends."""
    tree = config.to_dict()
    del tree["evaluation"]["map_cut"]
    del tree["training"]["seed"], tree["training"]["init_from"]
    return json.dumps(tree, sort_keys=True)


def points(data: DataChoice, *, quick: bool = False) -> dict[str, list[Point]]:
    """The first seed's trainings of every table."""
    return {
        name: table_points(load_table(name), data, quick=quick, seeds=[0]) for name in RETRIEVAL
    }


def test_all_tables_of_the_papers_are_there():
    expected = {
        **{f"astn-{n}": 7 for n in range(1, 8)},
        **{f"hifa-{n}": 3 for n in range(1, 4)},
        **{f"ftspl-{n}": 5 for n in range(1, 6)},
        **{f"dca-{n}": 2 for n in range(1, 3)},
        **{f"daisnet-{n}": 4 for n in range(1, 5)},
    }
    assert set(NAMES) == set(expected)
    assert NAMES[:2] == ("astn-1", "astn-2")


@pytest.mark.parametrize(
    ("name", "found"),
    [("FTSPL-III", "ftspl-3"), ("dca-ii", "dca-2"), ("DAIS-NET-1", "daisnet-1")],
)
def test_names_as_in_the_papers(name, found):
    assert load_table(name).name == found
    assert load_table(TABLES / f"{found}.yaml") == load_table(name)


@pytest.mark.parametrize("name", ["astn-8", "astn", "atsn-3", "sketchnet-1", "3", ""])
def test_an_unknown_table_is_refused(name):
    with pytest.raises(ConfigError, match=f"^no table '{name}'; (did you mean|known)"):
        load_table(name)


def test_every_published_row_is_in_exactly_its_table():
    placed: list[Any] = []
    for name in RETRIEVAL:
        table = load_table(name)
        assert table.source is not None
        assert table.table is not None
        own = published_figures(table.source, table.table)
        for row in table.rows:
            for column in table.columns:
                printed = published_row(table, row, column)
                if printed is not None and not row.quoted:
                    variant = row.published
                    if isinstance(variant, dict):
                        variant = variant[column]
                    key = (row.published_method or row.method, variant, column)
                    placed += [
                        figures
                        for figures in own
                        if (figures.method, figures.variant, figures.dataset) == key
                        and row.published_backbone in (None, figures.backbone)
                    ]
                    assert placed[-1] is printed
    assert Counter(map(id, placed)) == Counter(map(id, all_figures()))


def test_every_published_model_is_in_its_complexity_table():
    placed = []
    for name in set(NAMES) - set(RETRIEVAL):
        table = load_table(name)
        placed += [(table.source, str(table.table), row.model) for row in table.rows]
    assert Counter(placed) == Counter((r.source, r.table, r.model) for r in all_complexity())


@pytest.mark.parametrize("name", RETRIEVAL)
def test_tables_show_the_metrics_that_the_paper_gives(name):
    table = load_table(name)
    assert table.source is not None
    assert table.table is not None
    given = {m for row in published_figures(table.source, table.table) for m in row.metrics}
    assert set(table.metrics) == given


@pytest.mark.parametrize("name", RETRIEVAL)
def test_every_row_has_a_figure_of_the_paper(name):
    table = load_table(name)
    for row in table.rows:
        if name != "astn-4":
            assert any(published_row(table, row, column) for column in table.columns), row


@pytest.mark.parametrize("name", NAMES)
def test_headers_say_the_command_and_the_runs(name):
    path = TABLES / f"{name}.yaml"
    header = [line for line in path.read_text().splitlines() if line.startswith("# ")]
    text = "\n".join(header)
    assert f"# Command:    img2shape table {name}" in text
    assert "# Published:  " in text
    table = load_table(name)
    for data, label in zip(SITES, ("Built-in", "Catalogue", "Real data"), strict=True):
        if table.is_trained:
            runs = len(table_points(table, data))
            assert any(x.startswith(f"# {label}:") and f" {runs} runs" in x for x in header), label
    assert all(len(line) <= 100 for line in path.read_text().splitlines())


@pytest.mark.parametrize("name", RETRIEVAL)
@pytest.mark.parametrize("data", SITES)
def test_cells_are_complete_and_parse(name, data):
    table = load_table(name)
    found = table_points(table, data)
    skips = table_skips(table, data)
    places = {(row.label, column) for row in table.rows for column in table.columns_on(data)}
    assert {place_of(point.labels) for point in found} == places - set(skips)
    assert len(found) == 3 * (len(places) - len(skips))
    assert all(skips.values())
    methods = {row.label: row.method for row in table.rows}
    for point in found:
        config, labels = config_of(point), point.labels
        assert config.method_name == methods[labels["row"]]
        assert config.training.seed == labels["training.seed"]
        assert config.training.init_from is None


@pytest.mark.parametrize("name", RETRIEVAL)
def test_quick_cells_parse_and_are_small(name):
    table = load_table(name)
    folders = set(table_folders(table, quick=True).values())
    assert folders <= {"data/procedural-smoke", "data/procedural-smoke-b"}
    full, quick = table_points(table, seeds=[0]), table_points(table, quick=True)
    assert [p.labels for p in quick] == [p.labels for p in full]
    for point in quick:
        config = config_of(point)
        assert config.training.steps <= 20
        roots = {config.data.root}
        for stream in ("source_images", "source_shapes", "target_images", "target_shapes"):
            selection = getattr(config.data, stream)
            root = None if selection is None else selection.root
            roots |= set([root] if isinstance(root, str) else root or ())
        roots |= {config.data.queries.root, config.data.gallery.root} - {None}
        assert roots <= folders, (point, roots)


@pytest.mark.parametrize("name", RETRIEVAL)
@pytest.mark.parametrize(("quick", "size"), [(True, "smoke"), (False, "small")])
def test_every_folder_on_built_in_data_can_be_made(name, quick, size):
    table = load_table(name)
    made = table_benchmarks(table, quick=quick)
    assert set(made) == set(table_folders(table, quick=quick).values())
    suffixes = {"a": "", "b": "-b"}
    assert {(f"data/procedural-{size}{suffixes[style]}", size) for _, style in made.values()} == {
        (folder, of_size) for folder, (of_size, _) in made.items()
    }


@pytest.mark.parametrize("data", ["catalogue", "real"])
def test_other_data_have_no_quick_form(data):
    with pytest.raises(ConfigError, match=f"astn-3: {data} data have no quick form; leave --quick"):
        table_points(load_table("astn-3"), data, quick=True)


def test_columns_that_stand_for_the_same_are_one():
    table = load_table("hifa-3")
    assert table.columns_on("real") == table.columns_on("procedural") == ("mi3dor", "mi3dor-2")
    assert table.columns_on("catalogue") == ("mi3dor",)
    assert load_table("hifa-2").columns_on("catalogue") == ("mi3dor-2",)
    pairs = load_table("daisnet-1")
    assert pairs.columns_on("catalogue") == ("shrec14->pix3d", "pix3d->shrec14")


def test_pairs_of_the_catalogue_are_those_of_its_benchmark():
    point = table_points(load_table("daisnet-3"), "catalogue", seeds=[0])[0]
    assert point.labels["column"] == "shrec14->pix3d"
    keys = {name: value for name, _, value in (key.partition("=") for key in point.keys)}
    assert keys["data.root"] == "data/catalogue-blendswap"
    assert "data/catalogue-scopia" in keys["data.source_images"]
    assert "data/catalogue-scopia" in keys["data.source_shapes"]


def test_missing_data_of_the_catalogue_have_their_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, folders in {
        "astn-1": ["data/catalogue"],
        "dca-2": ["data/catalogue"],
        "daisnet-1": ["data/catalogue-scopia", "data/catalogue-blendswap"],
    }.items():
        assert list(table_folders(load_table(name), "catalogue").values()) == folders
        for folder in folders:
            words = (
                rf"{name}: {folder}: no data set here .*`img2shape data pack sh3f .*--out {folder} "
            )
            with pytest.raises(ConfigError, match=words):
                require_packed(load_table(name), "catalogue")
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / "manifest.parquet").touch()
        require_packed(load_table(name), "catalogue")
        for folder in folders:
            (tmp_path / folder / "manifest.parquet").unlink()
    require_packed(load_table("astn-1"), "real")  # its data sets have commands of their own


def test_a_setting_may_leave_the_catalogue_out(tmp_path):
    setting = yaml.safe_load((TABLES / "settings" / "photos.yaml").read_text())
    del setting["catalogue"]
    table = load_table(write(tmp_path, setting=setting))
    assert table_points(table, "real")
    with pytest.raises(ConfigError, match="mine: its setting has no catalogue data"):
        table_points(table, "catalogue")


def test_tables_share_their_cells():
    """A grid's size is what differs: of the rows of all tables little more than half."""
    for quick in (True, False):
        found = [
            (described(config_of(p)), (name, place_of(p.start_from)) if p.start_from else None)
            for name, own in points("procedural", quick=quick).items()
            for p in own
        ]
        assert (len(found), len(set(found))) == (134, 74)


def test_only_the_tables_of_daisnet_score_what_is_retrieved():
    for data in SITES:
        for name, own in points(data).items():
            cuts = {config_of(point).evaluation.map_cut for point in own}
            assert cuts == ({20} if name.startswith("daisnet") else {None}), name


def test_fine_tuning_starts_from_the_other_data_set():
    table = load_table("astn-4")
    assert not [p for p in table_points(table, "catalogue") if p.start_from]
    for data in ("procedural", "real"):
        found = table_points(table, data)
        starts = [(p.labels, p.start_from) for p in found if p.start_from is not None]
        assert {(labels["column"], place_of(start)) for labels, start in starts} == {
            ("mi3dor", ("own data set alone", "mi3dor-2")),
            ("mi3dor-2", ("own data set alone", "mi3dor")),
        }
        trained = [p.labels for p in found if p.start_from is None]
        assert all(start in trained for _, start in starts)
        seeds = [(labels["training.seed"], start["training.seed"]) for labels, start in starts]
        assert all(own == other for own, other in seeds)


def test_rows_on_real_data_are_those_of_the_documentation():
    ours = {described(config_of(point)) for own in points("real").values() for point in own}
    assert len(documented_ablations()) > 20
    for config, overrides in documented_ablations():
        documented = load_config(ROOT / config, overrides.split())
        assert described(documented) in ours, (config, overrides)


def test_rows_on_the_benchmark_are_those_of_its_ablations():
    """But two of FTSPL, which keep the selection that table III's rows are without."""
    spec = importlib.util.spec_from_file_location("ablations", ROOT / "benchmarks" / "ablations.py")
    assert spec is not None
    assert spec.loader is not None
    ablations = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ablations)
    ours = {described(config_of(point)) for own in points("procedural").values() for point in own}
    other = []
    for method, rows in ablations.ABLATIONS.items():
        config = ROOT / "configs" / "procedural" / f"{method}.yaml"
        for label, overrides in {method: [], **rows}.items():
            if described(load_config(config, overrides)) not in ours:
                other.append(label)
    assert other == ["ftspl: classifier labels", "ftspl: centroid labels"]


def test_rows_without_selection_train_on_no_pseudo_label():
    for data in SITES:
        for name in ("ftspl-3", "ftspl-4", "ftspl-5"):
            for point in table_points(load_table(name), data):
                config = config_of(point)
                method: Any = config.method
                if config.method_name == "ftspl" and not method.spl:
                    assert not method.target_ce, point


def write(folder: Path, **changes: Any) -> Path:
    """A small table; ``None`` takes a key away."""
    tree: dict[str, Any] = {
        "title": "Mine",
        "metrics": ["FT"],
        "setting": "photos",
        "columns": ["mi3dor"],
        "rows": [{"label": "ASTN", "method": "astn"}],
    }
    tree = {key: value for key, value in {**tree, **changes}.items() if value is not None}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def row(**keys: Any) -> dict[str, Any]:
    return {"label": "ASTN", "method": "astn", **keys}


def test_a_table_of_ones_own(tmp_path):
    table = load_table(write(tmp_path, rows=[row(set={"training.steps": 5, "method.alpha": 1e-5})]))
    assert isinstance(table, PaperTable)
    assert table.name == "mine"
    (point,) = table_points(table, seeds=[7])
    config = config_of(point)
    assert (config.training.steps, config.training.seed) == (5, 7)
    assert config.method.alpha == 1e-5  # pyright: ignore[reportAttributeAccessIssue]


def test_a_setting_beside_the_table_comes_first(tmp_path):
    setting = yaml.safe_load((TABLES / "settings" / "photos.yaml").read_text())
    setting["procedural"]["folders"]["mi3dor"] = "elsewhere"
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "photos.yaml").write_text(yaml.safe_dump(setting))
    assert table_folders(load_table(write(tmp_path))) == {"mi3dor": "elsewhere"}
    written = load_table(write(tmp_path, setting=setting))
    assert config_of(table_points(written)[0]).data.root == "elsewhere"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": 3}, "unknown key 'sedes'; did you mean 'seeds'"),
        ({"rows": [row(methd="astn")]}, "did you mean 'method'"),
        ({"rows": [row(absent="why")]}, "row 'ASTN': give either method, or absent"),
        ({"rows": [{"label": "ASTN"}]}, "row 'ASTN': give either method, or absent"),
        ({"rows": [row(method="atsn")]}, "unknown method 'atsn'; did you mean 'astn'"),
        ({"rows": [row(), row()]}, "rows: two are labelled 'ASTN'"),
        ({"rows": []}, "rows: "),
        ({"columns": ["mi3dor2"]}, "columns: no column 'mi3dor2'; did you mean 'mi3dor-2'"),
        ({"metrics": ["FTT"]}, "metrics: no metric 'FTT'; did you mean 'FT'"),
        ({"metrics": None}, "metrics: a retrieval table needs some"),
        ({"full": "ASTM"}, "full: no trained row 'ASTM'; did you mean 'ASTN'"),
        ({"setting": "fotos"}, "setting: no setting 'fotos'; did you mean 'photos'"),
        ({"source": "astn"}, "source and table belong together"),
        ({"source": "asnt", "table": 1}, "no published figures of 'asnt'; did you mean 'astn'"),
        ({"source": "astn", "table": "first"}, "table: 'first' is no number"),
        ({"source": "astn", "table": 9}, "row 'ASTN': ASTN has no retrieval table '9'"),
        (
            {"source": "astn", "table": 3, "rows": [row(published="only-efa")]},
            "row 'ASTN': no such figures in table 3 of astn",
        ),
        (
            {
                "source": "astn",
                "table": 5,
                "kind": "complexity",
                "metrics": None,
                "rows": [row(model="atsn")],
            },
            "row 'ASTN': no such figures in table 5 of astn",
        ),
        ({"rows": [row(start_from={"row": "ATSN", "columns": {}})]}, "did you mean 'ASTN'"),
        (
            {"rows": [row(), row(label="b", start_from={"row": "ASTN", "columns": {}})]},
            "'b' starts from nothing in column 'mi3dor'",
        ),
        (
            {"rows": [row(label="b", start_from={"row": "b", "columns": {"mi3dor": "mi3dor"}})]},
            "'b' starts from 'b', which must be trained from ready weights",
        ),
    ],
)
def test_a_bad_table_says_what_is_wrong(tmp_path, changes, message):
    path = write(tmp_path, **changes)
    with pytest.raises(ConfigError) as error:
        load_table(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["{mi3dor-3}", "{", "{}", ["{b}"]])
def test_a_folder_that_the_setting_lacks(tmp_path, value):
    table = load_table(write(tmp_path, rows=[row(set={"data.root": value})]))
    with pytest.raises(ConfigError, match=r"'ASTN': data.root: .* no folder of the setting \(mi3"):
        table_points(table)
