"""What comes from outside, data, checkpoints, indexes, is read and never run, and stays inside."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dataio.packing.foreign import index
from dataio.records import DataError
from dataio.shards.manifest import Manifest, write_manifest
from dataio.shards.opening import load_manifest
from dataio.shards.reading import ShardReader, content_member
from evalsuite.search.index_files import DESCRIPTION, read_index, write_index
from evalsuite.search.indexes import build_index
from evalsuite.vectors.embeddings import Embeddings, EvaluationError
from tests.dataio.packed import packed
from tests.dataio.packing.test_foreign import encoded
from trainer.config import ConfigError
from trainer.runs.checkpoint import open_checkpoint, save_checkpoint
from trainer.runs.checkpoint_facts import read_facts, write_facts
from trainer.runs.retention import Retention

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ("cluster", "trainer", "dataio", "evalsuite", "benchmarks")

# Where objects are unpickled, and why what they hold is this program's own.
OWN_PICKLES = {
    (
        "trainer/synchronised/collectives.py",
        "pickle.loads",
    ),  # an error of this very process, to see if it can
}
UNPICKLING = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads",
    "dill.load", "joblib.load", "marshal.loads", "shelve.open", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "eval", "exec",
}  # fmt: skip


# ---- no code from data -----------------------------------------------------------------------


def calls(folders: tuple[str, ...]) -> Iterator[tuple[str, str, ast.Call]]:
    """File, dotted name and node of every call."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    yield str(path.relative_to(ROOT)), ast.unparse(node.func), node


def unsafe(name: str, node: ast.Call) -> bool:
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if name.endswith("torch.load"):
        return given.get("weights_only") != "True"
    if name in ("np.load", "numpy.load"):
        return given.get("allow_pickle", "False") != "False"
    if name in ("tarfile.open", "tar.extractall", "tar.extract", "shutil.unpack_archive"):
        return not name.endswith("open")  # members are read in place, never unpacked
    return name in UNPICKLING


def test_no_file_of_the_program_unpickles_or_unpacks() -> None:
    seen = list(calls(PROGRAM))
    assert any(name == "torch.load" for _, name, _ in seen)
    assert any(name == "np.load" for _, name, _ in seen)
    found = {(file, name) for file, name, node in seen if unsafe(name, node)}
    assert found == OWN_PICKLES


@pytest.mark.parametrize(
    ("line", "bad"),
    [
        ("torch.load(p)", True),
        ("torch.load(p, weights_only=False)", True),
        ("torch.load(p, weights_only=True)", False),
        ("np.load(p, allow_pickle=True)", True),
        ("np.load(p)", False),
        ("pickle.load(f)", True),
        ("yaml.load(f)", True),
        ("tar.extractall()", True),
    ],
)
def test_the_search_finds_them(line, bad) -> None:
    node = ast.parse(line).body[0]
    assert isinstance(node, ast.Expr)
    assert isinstance(node.value, ast.Call)
    assert unsafe(ast.unparse(node.value.func), node.value) == bad


class Payload:
    """Unpickled without restraint, this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_in_a_checkpoint_is_not_run(tmp_path) -> None:
    """Even where the hash was made to fit, as whoever writes the folder can."""
    state = {"x": torch.zeros(3)}
    save_checkpoint(tmp_path / "c", state, step=1, description={"identity": "a"}, keep=Retention(1))
    (folder,) = (tmp_path / "c").iterdir()
    torch.save({"x": Payload(tmp_path / "ran")}, folder / "state.pt")
    digest = hashlib.sha256((folder / "state.pt").read_bytes()).hexdigest()
    write_facts(folder, {**read_facts(folder), "sha256": digest})
    with pytest.raises(ConfigError, match="more than tensors and plain values"):
        open_checkpoint(folder)
    assert not (tmp_path / "ran").exists()


# ---- tars and manifests stay in their folder -------------------------------------------------


def tar(path: Path, name: str, content: bytes | None, *, kind: bytes = tarfile.REGTYPE) -> None:
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo(name)
        info.type = kind
        info.linkname = "/etc/passwd"
        info.size = len(content or b"")
        archive.addfile(info, io.BytesIO(content or b""))


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", ["../../x.png", "/tmp/x.png", "a/../../../x.png", "c:\\x.png"])
def test_a_member_with_a_path_out_is_read_in_place(tmp_path, name) -> None:
    folder = tmp_path / "deep" / "set"
    folder.mkdir(parents=True)
    tar(folder / "a.tar", name, encoded(3))
    before = everything(tmp_path)
    manifest = index(folder, stream="image", split="train")
    reader = ShardReader(manifest.root, manifest.shards)
    assert reader.read(0, content_member(manifest, 0)) == encoded(3)
    reader.close()
    assert everything(tmp_path) - before == {"deep/set/manifest.parquet"}


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(tmp_path, kind) -> None:
    tar(tmp_path / "a.tar", "a.png", None, kind=kind)
    with pytest.raises(DataError, match="link or no plain file"):
        index(tmp_path, stream="image", split="train")
    assert everything(tmp_path) == {"a.tar"}


def test_programs_in_a_tar_are_passed_over(tmp_path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in (("a.png", encoded(1)), ("a.pyd", b"import os"), ("a.pkl", b"c")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    manifest = index(tmp_path, stream="image", split="train")
    assert [member.suffix for member in manifest.members[0]] == ["png"]


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> Manifest:
    return packed(tmp_path_factory.mktemp("security"))


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../other.tar", "a/../../b.tar", "http://10.0.0.1/a", "C:\\a.tar"]
)
def test_a_manifest_names_no_file_outside_its_folder(data_set, tmp_path, name) -> None:
    (tmp_path / "set").mkdir()
    shards = (replace(data_set.shards[0], name=name), *data_set.shards[1:])
    write_manifest(replace(data_set, root=str(tmp_path / "set"), shards=shards))
    with pytest.raises(DataError, match="not inside the data set"):
        load_manifest(tmp_path / "set")


def test_an_index_names_no_file_outside_its_folder(tmp_path) -> None:
    vectors = np.eye(4, dtype=np.float32)
    gallery = Embeddings(list("abcd"), list("aabb"), vectors)
    built = build_index(gallery, "flat", features="raw", metric="euclidean")
    write_index(tmp_path / "inside", built, gallery)
    described = tmp_path / "inside" / DESCRIPTION
    facts = json.loads(described.read_text())
    held = tmp_path / "inside" / facts["file"]
    os.replace(held, tmp_path / "outside.faiss")
    described.write_text(json.dumps({**facts, "file": "../outside.faiss"}))
    with pytest.raises(EvaluationError, match=r"inside/outside\.faiss: cannot be read"):
        read_index(tmp_path / "inside", gallery, features="raw", metric="euclidean")


# Where escaping is switched off, and why that is right.
MARKED = {
    "evalsuite/pages/svg.py",  # a tree that ElementTree writes, which escapes
    # tables of evalsuite.tables.result_table_export, which escapes
    "evalsuite/pages/sweep_page.py",
}

# ---- pages -----------------------------------------------------------------------------------


def test_every_page_escapes_what_it_is_given() -> None:
    """Each page has its own test with hostile names; here: none can be written without escaping."""
    from evalsuite.pages.page_templates import page_template

    templates = sorted((ROOT / "evalsuite" / "pages" / "templates").glob("*.j2"))
    assert templates
    for path in templates:
        assert page_template(path.name).environment.autoescape is True
    made = [file for file, name, _ in calls(PROGRAM) if name.endswith(("jinja2.Template",))]
    assert not made


def test_what_is_said_to_be_safe_is_made_by_the_program() -> None:
    """`Markup(..)` and `|safe` switch escaping off: each place was looked at."""
    marked = {file for file, name, _ in calls(PROGRAM) if name.endswith("Markup")}
    filters = {
        path.name
        for path in (ROOT / "evalsuite" / "pages" / "templates").glob("*.j2")
        if "safe" in path.read_text().replace("unsafe", "")
    }
    assert (marked, filters) == (MARKED, set())
