"""The folder k8s: written by the code, built by kustomize; its Dockerfiles fit the repository."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement

from cluster.kubernetes.kustomize import kustomize_files
from cluster.kubernetes.options import RAY_VERSION
from cluster.kubernetes.validate import check
from tests.cluster.kubernetes.restricted import violations
from tests.command import ROOT, call

FOLDER = ROOT / "k8s"
DOCKERFILES = sorted(FOLDER.glob("Dockerfile.*"))
OVERLAYS = ("base", "overlays/cpu-dev", "overlays/gpu", "overlays/kueue", "overlays/monitoring")


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return kustomize_files()


def test_the_folder_is_what_the_code_writes(files):
    there = {str(p.relative_to(FOLDER)) for p in FOLDER.rglob("*.yaml")} - {
        "monitoring/alerts.yaml"
    }
    assert there == set(files)
    for name, text in files.items():
        assert (FOLDER / name).read_text() == text, f"{name}: `img2shape k8s base` writes it anew"


def test_its_objects_are_valid(files):
    objects = [
        manifest
        for name, text in files.items()
        if not name.endswith("kustomization.yaml")
        for manifest in yaml.safe_load_all(text)
    ]
    assert check(objects).findings == ()
    assert violations(objects) == []
    (namespace,) = [o for o in objects if o["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_builds(overlay):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    built = subprocess.run(
        ["kubectl", "kustomize", str(FOLDER / overlay)], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    objects = list(yaml.safe_load_all(built.stdout))
    kinds = [o["kind"] for o in objects]
    assert check(objects).findings == ()
    assert violations(objects) == []
    assert kinds.count("PersistentVolumeClaim") == kinds.count("Namespace") == 1
    ray = {"base": set(), "overlays/cpu-dev": {"RayCluster"}}.get(overlay, {"RayJob"})
    assert {kind for kind in kinds if kind.startswith("Ray")} == ray
    if overlay == "overlays/kueue":
        (job,) = [o for o in objects if o["kind"] == "RayJob"]
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "img2shape"
        assert job["spec"]["suspend"] is True
    if overlay == "overlays/monitoring":
        assert {"PodMonitor", "PrometheusRule"} <= set(kinds)


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_dockerfiles_fit_the_repository(file):
    text = re.sub(r"\\\n", " ", file.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    known = "FROM|ARG|ENV|RUN|WORKDIR|COPY|USER|CMD"
    assert all(re.match(rf"({known}) ", line) for line in lines)
    copied = [part for line in lines if line.startswith("COPY ") and "--from" not in line
              for part in line.split()[1:-1]]  # fmt: skip
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignored, f"{name} is not sent to the builder"
    (packages,) = re.findall(r"packages\.find\]\ninclude = \[(.*)\]", _project())
    folders = [name.replace(".", "/") for name in re.findall(r"[\w.]+", packages)]
    assert set(folders) <= set(copied)
    user = [line for line in lines if line.startswith("USER ")][-1]
    assert re.fullmatch(r"USER 1000:1000", user)
    assert lines.index(user) > max(i for i, line in enumerate(lines) if line.startswith("RUN "))


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_dockerfiles_pin_what_the_package_takes(file):
    pins = dict(re.findall(r"^ARG (\w+)=(\S+)$", file.read_text(), re.M))
    assert re.fullmatch(r"3\.\d+\.\d+-slim-\w+", pins["PYTHON"])
    assert pins["RAY_VERSION"] == RAY_VERSION
    ranges = {r.name: r.specifier for r in map(Requirement, metadata.requires("img2shape") or ())}
    for name in ("torch", "torchvision", "ray"):
        assert pins[f"{name.upper()}_VERSION"] in ranges[name], name
    (python,) = re.findall(r'^requires-python = "(.*)"$', _project(), re.M)
    assert pins["PYTHON"].split("-")[0] in Requirement(f"x{python}").specifier
    assert f"img2shape:{metadata.version('img2shape')}-{file.suffix[1:]}" in file.read_text()


def _project() -> str:
    return (ROOT / "pyproject.toml").read_text()


def test_there_is_an_image_for_each_kind():
    assert [file.name for file in DOCKERFILES] == ["Dockerfile.cpu", "Dockerfile.cuda"]


def _commands(page: str) -> list[list[str]]:
    """`img2shape k8s` commands of a page's code blocks, without what they are piped to."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"^```\n(.*?)^```", text, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("img2shape k8s ")]


@pytest.mark.parametrize("words", _commands("docs/guides/kubernetes.md"), ids=" ".join)
def test_the_commands_of_the_page_work(words, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    args = words[: words.index("|")] if "|" in words else words
    done = call(capfd, *args, "--no-monitoring", "--out", tmp_path / "out.yaml")
    assert done.code == 0, done.err
    objects = list(yaml.safe_load_all((tmp_path / "out.yaml").read_text()))
    assert check(objects).findings == ()
    assert violations(objects) == []


def test_the_page_needs_ten_commands():
    text = (ROOT / "docs/guides/kubernetes.md").read_text()
    block = re.findall(r"^```\n(.*?)^```", text.split("## From an empty")[1], re.M | re.S)[0]
    assert len(block.splitlines()) == 10
    assert f"img2shape:{metadata.version('img2shape')}-cuda" in block


def test_the_page_names_options_that_exist(capfd):
    from cluster.cli.kubernetes import render

    page = (ROOT / "docs/guides/kubernetes.md").read_text()
    shown = call(capfd, "k8s", "render", "--help").out
    for option in sorted(set(re.findall(r"`(--[a-z-]+)", page)) - {"--batch-scheduler"}):
        name = option.removeprefix("--").replace("-", "_")
        assert name in render.__annotations__, option
    assert "kubectl apply -f" in shown
