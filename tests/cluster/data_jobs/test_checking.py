import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataio.shards.opening import load_manifest
from dataio.shards.reading import content_member
from tests.command import call
from tests.dataio.checking.test_soundness import flip_a_byte, pack_leaking
from tests.dataio.packed import packed


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    return Path(packed(tmp_path_factory.mktemp("checking")).root)


@pytest.fixture
def root(shared, tmp_path) -> Path:
    return Path(shutil.copytree(shared, tmp_path / "set"))


def test_a_sound_set(shared, capfd):
    result = call(capfd, "data", "verify", shared, "--json").json
    assert result["ok"]
    assert (result["samples"], result["bad_samples"], result["quarantined"]) == (35, [], 0)
    assert result["groups"] == {"image/train": 22, "shape/train": 10, "shape/test": 3}
    shown = call(capfd, "data", "verify", shared)
    assert shown.code == 0
    assert shown.out.splitlines()[-1] == "sound"
    assert "class1" in shown.out


def test_a_bad_sample_is_told_and_repaired(root, capfd):
    manifest = load_manifest(root)
    bad = manifest.keys[flip_a_byte(manifest)[0]]
    shown = call(capfd, "data", "verify", root)
    assert shown.code == 1
    assert bad in shown.out
    assert "other content than when it was packed" in shown.out
    assert "--repair" in shown.out
    assert shown.out.splitlines()[-1] == "not sound"
    outcome = call(capfd, "data", "verify", root, "--json")
    assert outcome.code == 1
    assert [s["key"] for s in json.loads(outcome.out)["bad_samples"]] == [bad]

    result = call(capfd, "data", "verify", root, "--repair", "--json").json
    assert (result["ok"], result["repaired"], result["quarantined"]) == (True, True, 1)
    shown = call(capfd, "data", "verify", root)
    assert shown.code == 0
    assert "1 samples in quarantine.json" in shown.out


def test_leaks_stay(tmp_path, capfd):
    root = pack_leaking(tmp_path).root
    outcome = call(capfd, "data", "verify", root, "--repair", "--json")
    assert outcome.code == 1
    result = json.loads(outcome.out)
    assert (result["repaired"], result["quarantined"]) == (False, 0)
    assert len(result["leaks"]) == 2
    assert result["repeats"] == {"image/train": 1}
    assert [{s["label"] for s in same["samples"]} for same in result["conflicts"]] == [
        {"class0", "class2"}
    ]
    shown = call(capfd, "data", "verify", root)
    assert shown.code == 1
    assert "train/photo-000 (class0), test/leak (class0)" in " ".join(shown.out.split())
    assert "leaks stay as they are" in shown.out


def test_a_split_that_repair_loses_is_said(root, capfd):
    manifest = load_manifest(root)
    for row in manifest.select("shape", "test"):
        (root / manifest.shards[manifest.shard_ids[row]].name).unlink(missing_ok=True)
    shown = call(capfd, "data", "verify", root, "--repair")
    assert shown.code == 1
    assert "no good sample is left of shape/test" in shown.out
    assert call(capfd, "data", "verify", root).code == 0


def test_many_bad_samples_are_cut_short_on_the_terminal(root, capfd):
    manifest = load_manifest(root)
    for row in manifest.select("image", "train"):
        (root / manifest.shards[manifest.shard_ids[row]].name).unlink(missing_ok=True)
    shown = call(capfd, "data", "verify", root).out
    assert "22 bad samples" in shown
    assert "and 2 more, see --json" in shown


def test_what_cannot_be_used_is_exit_code_2(root, tmp_path, capfd):
    assert "not a packed data set" in call(capfd, "data", "verify", tmp_path / "no").complaint
    (root / "quarantine.json").write_text("{")
    assert "delete quarantine.json" in call(capfd, "data", "verify", root).complaint
    (root / "quarantine.json").unlink()
    for path in root.glob("*.tar"):
        path.unlink()
    assert "no good sample" in call(capfd, "data", "verify", root, "--repair").complaint
    assert not (root / "quarantine.json").exists()
    remote = call(capfd, "data", "verify", "https://example.org/set", "--repair")
    assert "repair a local copy" in remote.complaint


def test_inspection(shared, tmp_path, capfd):
    sheet = tmp_path / "sheet.png"
    result = call(capfd, "data", "inspect", shared, "--sheet", sheet, "--json").json
    assert result["groups"]["shape/test"]["samples"] == 3
    assert result["sheet"] == str(sheet)
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"
        assert len(np.unique(np.asarray(picture))) > 50
    shown = call(capfd, "data", "inspect", shared)
    assert shown.code == 0
    for text in ("shape/train", "class2", "tiny", "creator: img2shape"):
        assert text in shown.out


def test_inspection_of_a_damaged_picture(root, capfd):
    manifest = load_manifest(root)
    place = content_member(manifest, 0)
    with open(root / manifest.shards[0].name, "r+b") as file:
        file.seek(place.offset)
        file.write(bytes(place.size))
    complaint = call(capfd, "data", "inspect", root).complaint
    assert f"sample '{manifest.keys[0]}'" in complaint
    assert "data verify" in complaint
