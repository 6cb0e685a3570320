"""``img2shape index`` and ``img2shape search`` on a tiny trained run, as a user calls them."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cluster.evaluation.extraction import configured_stream, embed
from cluster.evaluation.pictures import embed_pictures, query_pixels
from cluster.training import train_run
from dataio.loading import walk
from dataio.loading.batch import Stream
from dataio.loading.sources import SampleTable, StreamSource
from dataio.packing.records_to_shards import pack
from dataio.records import DataError, Record
from dataio.shards.opening import load_manifest
from evalsuite.pages.search_page import Answer, Hit, write_search_page
from evalsuite.pages.strips import Thumb
from evalsuite.search.exact import FlatIndex
from evalsuite.vectors.embeddings import Embeddings, write_embeddings
from tests.command import CONFIGS, call, small
from trainer.config import load_config
from trainer.extraction.trained_run import load_run
from trainer.inputs.open_data import OpenData
from trainer.sections import Selection


@pytest.fixture(scope="module")
def trained(benchmark, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("searching") / "run"
    train_run(load_config(CONFIGS / "source-only.yaml", small(benchmark)), out, workers=0)
    return out


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy that a test may write to."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def embedded(trained) -> tuple[Embeddings, Embeddings]:
    """Queries and gallery of the run."""
    opened = load_run(trained)
    streams = [configured_stream(opened, side) for side in ("queries", "gallery")]
    queries, gallery = embed(opened, trained / "embeddings", streams)
    return queries.read(), gallery.read()


@pytest.fixture(scope="module")
def photos(benchmark, trained, tmp_path_factory) -> dict[str, Path]:
    """Three packed queries by key, as files."""
    config = load_run(trained).config
    source = OpenData(config).evaluation_source(config.data.queries)
    folder = tmp_path_factory.mktemp("photos")
    files = {}
    for row in source.rows[:3]:
        manifest = source.manifest
        member = next(m for m in manifest.members[row] if m.suffix in ("jpg", "png"))
        shard = benchmark / manifest.shards[manifest.shard_ids[row]].name
        content = shard.read_bytes()[member.offset : member.offset + member.size]
        file = folder / f"{manifest.keys[row]}.{member.suffix}"
        file.write_bytes(content)
        files[manifest.keys[row]] = file
    return files


class Pieces(HTMLParser):
    """The tags of a page, and the sources that it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.titles: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.sources += [found[name] or "" for name in ("src", "href") if name in found]
        self.titles += [found["title"] or ""] if "title" in found else []


def test_a_picture_is_embedded_as_the_packed_query(photos, trained, embedded):
    queries, _ = embedded
    found = embed_pictures(load_run(trained), list(photos.values()))
    for key, vector in zip(photos, found.vectors, strict=True):
        expected = queries.vectors[queries.keys.index(key)]
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)


def test_an_original_gives_the_pixels_of_its_packed_copy(tmp_path):
    """Large, grey, transparent and oblong files alike, in formats that packing codes anew."""
    rng = np.random.default_rng(0)
    kinds = {
        "a.jpg": ("RGB", (90, 70, 3)),
        "b.png": ("RGB", (40, 120, 3)),
        "c.png": ("L", (64, 64)),
        "d.webp": ("RGB", (33, 50, 3)),
        "e.png": ("RGBA", (80, 60, 4)),
        "f.bmp": ("RGB", (20, 20, 3)),
    }
    records = []
    for name, (mode, shape) in kinds.items():
        path = tmp_path / name
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).convert(mode).save(path)
        records.append(Record(name[0], "image", "test", "x", image=path, source_path=name))
    pack(records, tmp_path / "set", dataset="pictures", image_size=32)
    manifest = load_manifest(tmp_path / "set")
    source = StreamSource(
        manifest=manifest, rows=np.arange(6), classes=("x",), labelled=True, image_size=24
    )
    stream = Stream(source, SampleTable.of(source), labels=None)
    stored = stream.pixels(np.arange(6), np.zeros((6, 1), dtype=np.int64)).numpy()
    for row, key in enumerate(manifest.keys):
        file = next(tmp_path.glob(f"{key}.*"))
        expected = stored[row].transpose(1, 2, 0)
        np.testing.assert_array_equal(query_pixels(file, source), expected)


def test_search_answers_as_the_metrics_rank(photos, run, embedded, capfd):
    queries, gallery = embedded
    options = [part for file in photos.values() for part in ("--image", file)]
    result = call(capfd, "search", run, *options, "-k", 4, "--json").json
    assert (result["kind"], result["k"], result["html"]) == ("flat", 4, None)
    rows = [queries.keys.index(key) for key in photos]
    asked = Embeddings(list(photos), [queries.labels[r] for r in rows], queries.vectors[rows])
    space = {"features": result["features"], "metric": result["metric"]}
    expected = FlatIndex(gallery, **space).search(asked, 4)
    for answer, file, items, distances in zip(
        result["answers"], photos.values(), expected.indices, expected.distances, strict=True
    ):
        assert answer["image"] == str(file)
        assert [hit["rank"] for hit in answer["results"]] == [1, 2, 3, 4]
        assert [hit["key"] for hit in answer["results"]] == [gallery.keys[i] for i in items]
        assert [hit["label"] for hit in answer["results"]] == [gallery.labels[i] for i in items]
        np.testing.assert_allclose(
            [hit["distance"] for hit in answer["results"]], distances, rtol=1e-3, atol=1e-5
        )
    assert not (run / "index-flat").exists()


def test_the_table_and_the_page(photos, run, embedded, benchmark, tmp_path, monkeypatch, capfd):
    _, gallery = embedded
    manifest = load_manifest(benchmark)
    origin_of = dict(zip(manifest.keys, manifest.origins, strict=True))
    assert origin_of[gallery.keys[0]].startswith("view/test/")  # MI3DOR's layout
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    file = tmp_path / 'photo <b> & "[red]".png'
    Image.open(next(iter(photos.values()))).save(file)
    done = call(capfd, "search", run, "--image", file, "-k", 5, "--open")
    assert done.code == 0, done.err
    assert "[red]" in done.out
    for heading in ("rank", "distance", "class", "origin"):
        assert heading in done.out
    origins = {origin_of[key] for key in gallery.keys}
    assert sum(f" {origin} " in done.out for origin in origins) == 5
    page = run / "search.html"
    assert opened == [page.as_uri()]
    text = page.read_text()
    pieces = Pieces(text)
    assert "b" in pieces.tags  # the class of a query is bold
    assert "<b> &" not in text
    assert pieces.tags.count("img") == 6
    assert all(source.startswith("data:image/jpeg;base64,") for source in pieces.sources)
    assert pieces.titles[0] == str(file)
    assert set(pieces.titles[1:]) < origins
    assert sum(f"<small>{origin}</small>" in text for origin in origins) == 5


def test_html_without_open_opens_nothing(photos, run, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("webbrowser.open", lambda url: pytest.fail("opened"))
    out = tmp_path / "pages" / "found.html"
    image = next(iter(photos.values()))
    result = call(capfd, "search", run, "--image", image, "--html", out, "--json").json
    assert result["html"] == str(out)
    assert out.read_text().startswith("<!doctype html>")
    assert not (run / "search.html").exists()


def test_every_name_on_the_page_is_escaped(tmp_path):
    bad = '"><script>alert(1)</script>'
    hit = Hit(Thumb(bad, bad, True), 0.5)
    seen = Hit(Thumb(bad, bad, True, "data:image/jpeg;base64,AA=="), 1.5)
    answer = Answer(Thumb(bad, bad, True), (hit, seen))
    out = write_search_page(
        tmp_path / "p.html", [answer], title=bad, metric="cosine", items=12345, kind="ivf"
    )
    text = out.read_text()
    pieces = Pieces(text)
    assert "script" not in pieces.tags
    assert pieces.titles == [bad, bad, bad]
    assert "approximate" in text
    assert "12 345" in text


@pytest.mark.parametrize("kind", ["hnsw", "flat"])
def test_a_built_index_is_measured_stored_and_used(kind, photos, run, embedded, capfd):
    _, gallery = embedded
    built = call(capfd, "index", run, "--kind", kind, "--json").json
    folder = run / f"index-{kind}"
    about = json.loads((folder / "index.json").read_text())
    assert about["keys"] == gallery.keys
    assert all(origin.startswith("view/test/") for origin in about["origins"])
    assert "origins" not in built
    if kind == "flat":
        assert "report" not in built
    else:
        assert about["report"] == built["report"]
        assert built["report"]["recall"]["1"] > 0.9
        assert set(built["report"]["not_given"]) <= {"AUC", "mAP", "DCG"}
    image = next(iter(photos.values()))
    answers = [
        call(capfd, "search", run, "--image", image, "--kind", k, "--json").json["answers"]
        for k in (kind, "flat")
    ]
    assert answers[0] == answers[1]

    file = folder / about["file"]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    told = call(capfd, "search", run, "--image", image, "--kind", kind).complaint
    assert "hash" in told
    assert f"img2shape index {run} --kind {kind}" in told
    shown = call(capfd, "index", run, "--kind", kind)
    assert shown.code == 0
    assert f"index-{kind}" in shown.err
    if kind == "hnsw":
        assert "ANMRR" in shown.out
        assert "speed-up over flat" in shown.err
        assert "recall @1 " in shown.err
    assert call(capfd, "search", run, "--image", image, "--kind", kind, "--json").code == 0


def test_an_index_of_another_checkpoints_embeddings_is_refused(
    photos, run, benchmark, tmp_path, capfd
):
    other = tmp_path / "other"
    overrides = small(benchmark, training__seed=5)
    train_run(load_config(CONFIGS / "source-only.yaml", overrides), other, workers=0)
    assert call(capfd, "index", run).code == 0
    shutil.copytree(run / "index-flat", other / "index-flat")
    image = next(iter(photos.values()))
    told = call(capfd, "search", other, "--image", image).complaint
    assert "other embeddings" in told
    assert "img2shape index" in told


# ---- other galleries


@pytest.fixture(scope="module")
def other(benchmark, tmp_path_factory) -> str:
    """Another packed data set: five of the shapes, all of split train."""
    manifest = load_manifest(benchmark)
    source = OpenData(load_config(CONFIGS / "source-only.yaml", small(benchmark)))
    shapes = source.evaluation_source(Selection(stream="shape", split="test"))
    root, records = tmp_path_factory.mktemp("other"), []
    for number, row in enumerate(shapes.rows[:5]):
        raw = root / "raw" / str(number)
        raw.mkdir(parents=True)
        pixels = next(walk(replace(shapes, rows=np.array([row])), batch=1)).pixels[0].numpy()
        views = []
        for view, picture in enumerate(pixels.transpose(0, 2, 3, 1)):
            views.append(raw / f"{view:02d}.png")
            Image.fromarray(picture.repeat(3 // picture.shape[2], axis=2)).save(views[-1])
        records.append(
            Record(f"mine-{number}", "shape", "train", str(manifest.labels[row]),
                   views=tuple(views), source_path=f"views/{number}")
        )  # fmt: skip
    return pack(records, root / "packed", dataset="other", views="npy").root


def test_another_split_or_all_can_be_searched_after_training(photos, run, benchmark, capfd):
    image = next(iter(photos.values()))
    manifest = load_manifest(benchmark)
    shapes = manifest.streams == "shape"
    split_of = dict(zip(manifest.keys, manifest.splits, strict=True))
    total = int(shapes.sum())
    found = {}
    for asked in (None, "test", "train", "all"):
        option = [] if asked is None else ["--gallery", asked]
        done = call(capfd, "search", run, "--image", image, "-k", total, *option, "--json").json
        hits = {hit["key"]: hit for hit in done["answers"][0]["results"]}
        assert (done["gallery"], done["available"]) == (asked or "test", total)
        assert done["items"] == len(hits)
        if asked != "all":
            assert {split_of[key] for key in hits} == {asked or "test"}
        assert all(hit["origin"].startswith("view/") for hit in hits.values())
        found[asked] = hits
    assert found[None].keys() == found["test"].keys()
    assert found["all"].keys() == found["test"].keys() | found["train"].keys() | {
        key for key in found["all"] if split_of[key] == "val"
    }
    assert len(found["all"]) == total
    for key, hit in found["train"].items():  # an item has one distance in every gallery
        assert hit["distance"] == pytest.approx(found["all"][key]["distance"], rel=1e-4, abs=1e-6)


def test_what_is_left_out_is_told_and_how_to_search_it(photos, run, capfd):
    image = next(iter(photos.values()))
    items, total = (
        call(capfd, "search", run, "--image", image, "--json").json[key]
        for key in ("items", "available")
    )
    part = call(capfd, "search", run, "--image", image)
    assert f"{items} of {total} shapes are searched; --gallery all searches all" in part.err
    whole = call(capfd, "search", run, "--image", image, "--gallery", "all")
    assert "searched" not in whole.err


def test_the_shapes_of_another_data_set_are_searched_with_their_pictures(
    photos, run, embedded, other, tmp_path, capfd
):
    queries, gallery = embedded
    image, page = next(iter(photos.values())), tmp_path / "page.html"
    option = ("--image", image, "-k", 9, "--gallery", other)
    done = call(capfd, "search", run, *option, "--html", page, "--json").json
    hits = done["answers"][0]["results"]
    assert (done["items"], done["available"], len(hits)) == (5, None, 5)
    assert {hit["origin"] for hit in hits} == {f"views/{k}" for k in range(5)}
    pieces = Pieces(page.read_text())
    assert pieces.tags.count("img") == 6
    # They are the first five of the run's own gallery, so they are as far.
    space = {"features": done["features"], "metric": done["metric"]}
    row = queries.keys.index(next(iter(photos)))
    asked = Embeddings(["q"], [queries.labels[row]], queries.vectors[row : row + 1])
    known = FlatIndex(gallery, **space).search(asked, len(gallery))
    far = dict(zip(known.indices[0].tolist(), known.distances[0].tolist(), strict=True))
    for hit in hits:
        number = int(hit["key"].removeprefix("mine-"))
        assert hit["distance"] == pytest.approx(far[number], rel=0.05, abs=5e-3)
    assert call(capfd, "index", run, "--gallery", other).code == 0
    (folder,) = run.glob("index-flat-*")
    keys = json.loads((folder / "index.json").read_text())["keys"]
    assert sorted(keys) == [f"mine-{k}" for k in range(5)]
    assert call(capfd, "search", run, *option, "--json").json["answers"] == done["answers"]
    assert not (run / "index-flat").exists()


def test_embeddings_of_the_run_are_searched_and_those_of_others_refused(
    photos, run, other, benchmark, tmp_path, capfd, caplog
):
    image = next(iter(photos.values()))
    out = tmp_path / "all"
    assert call(capfd, "embed", run, "--split", "all", "--out", out).code == 0
    expected = call(capfd, "search", run, "--image", image, "--gallery", "all", "--json").json
    for folder in (out / "gallery-all", run / "embeddings" / "gallery-all"):
        done = call(capfd, "search", run, "--image", image, "--gallery", folder, "--json").json
        assert done["answers"] == expected["answers"]
    complaint = call(
        capfd, "search", run, "--image", image, "--gallery", out / "queries-all"
    ).complaint
    assert "embeddings of the stream image, not of shapes" in complaint

    retrained = tmp_path / "retrained"
    overrides = small(benchmark, training__seed=5)
    train_run(load_config(CONFIGS / "source-only.yaml", overrides), retrained, workers=0)
    asked = ("search", retrained, "--image", image, "--gallery")
    complaint = call(capfd, *asked, out / "gallery-all").complaint
    assert "made by other weights than" in complaint
    assert "--gallery FOLDER of their packed data set" in complaint

    width = len(expected["answers"][0]["results"]) + 3
    foreign = tmp_path / "foreign.parquet"
    write_embeddings(foreign, Embeddings(["a", "b"], ["x", "x"], np.ones((2, width), np.float32)))
    complaint = call(capfd, *asked, foreign).complaint
    assert f"embeddings of {width} components, but those of this run have" in complaint
    assert "says nothing of the network" in caplog.text


def test_galleries_that_are_none_are_named(photos, run, tmp_path, capfd):
    image = next(iter(photos.values()))
    asked = ("search", run, "--image", image, "--gallery")
    assert "expected train, val, test, all, or the folder" in call(capfd, *asked, "tets").complaint
    (tmp_path / "empty").mkdir()
    complaint = call(capfd, *asked, tmp_path / "empty").complaint
    assert "holds neither manifest.parquet" in complaint
    built = call(capfd, *asked, "all", "--kind", "hnsw").complaint
    assert f"img2shape index {run} --kind hnsw --gallery all" in built


def test_bad_requests_are_one_line(photos, run, tmp_path, capfd):
    image = next(iter(photos.values()))
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    cut = tmp_path / "cut.png"
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    cut.write_bytes(buffer.getvalue()[:60])
    for args, words in (
        (["--image", tmp_path / "absent.jpg"], ["absent.jpg"]),
        (["--image", image, "--image", text], ["notes.txt", "picture"]),
        (["--image", cut], ["cut.png"]),
        (["--image", tmp_path], [tmp_path.name]),
        (["--image", image, "-k", 0], ["-k"]),
        (["--image", image, "--kind", "lsh"], ["lsh", "ivfpq"]),
        (["--image", image, "--kind", "ivf"], ["img2shape index", "--kind ivf"]),
        ([], ["--image"]),
    ):
        done = call(capfd, "search", run, *args)
        assert all(word in done.complaint for word in words), done.complaint
        assert done.out == ""
    for args, words in (
        (["--kind", "lsh"], ["lsh", "ivfpq"]),
        (["--kind", "hnsw", "--nprobe", 3], ["nprobe", "hnsw"]),
        (["--kind", "ivfpq"], ["at least", "flat"]),
    ):
        done = call(capfd, "index", run, *args)
        assert all(word in done.complaint for word in words), done.complaint
    assert not list(run.glob("index-*"))


def test_pictures_are_read_before_any_is_embedded(photos, trained, tmp_path, monkeypatch):
    opened = load_run(trained)
    monkeypatch.setattr(
        type(opened.method), "embed_queries", lambda *_: pytest.fail("embedded"), raising=True
    )
    with pytest.raises(DataError, match=r"absent\.png"):
        embed_pictures(opened, [*photos.values(), tmp_path / "absent.png"])
