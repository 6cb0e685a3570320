"""What README.md and the documents say is so: commands, keys, paths, examples."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from pydantic import BaseModel

from dataio.datasets.registry import adapter_names
from tests.command import ROOT, call
from trainer.config import RunConfig, load_config
from trainer.methods import METHODS, Domain, Now
from trainer.networks.options import NetworkConfig
from trainer.shipped import shipped_configs
from trainer.transfer_pairs import Transfer

DOCUMENTS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCUMENTS]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Language and text of every code block."""
    for found in re.finditer(r"^```([^\n]*)\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S):
        yield found[1].split(" ")[0], found[2]


def commands(page: str) -> list[str]:
    """``img2shape`` commands of the page's shell blocks, without comments and pipes."""
    lines = (
        line for kind, text in blocks(page) if kind in ("", "console") for line in text.split("\n")
    )
    words = (line.removeprefix("$ ").split("  #")[0].split(" | ")[0].strip() for line in lines)
    return [
        re.sub(r"^torchrun .* -m cluster ", "img2shape ", command)
        for command in words
        if command.startswith(("img2shape ", "torchrun "))
    ]


EVERY = sorted({command for page in NAMES for command in commands(page)})
PACKING = [c for c in EVERY if c.startswith(("img2shape data pack ", "img2shape data render "))]


def described(command: str) -> str | None:
    """The file or the shipped name of a description that a command is given."""
    words = shlex.split(command)
    return next((w for w in words if w.endswith(".yaml") or w in shipped_configs()), None)


DESCRIBED = [c for c in EVERY if described(c)]
RUNS = ("train", "model", "doctor", "explain", "replay", "render")


def test_the_documents_have_commands():
    assert len(EVERY) > 60
    assert len(PACKING) > 10


@pytest.mark.parametrize("command", EVERY)
def test_commands_and_options_exist(command):
    from cluster.cli.app import app

    words = shlex.split(command)[1:]
    current: Any = typer.main.get_command(app)
    context = current.make_context("img2shape", list(words), resilient_parsing=True)
    while hasattr(current, "resolve_command") and words and not words[0].startswith("-"):
        name, current, words = current.resolve_command(context, words)
        if not hasattr(current, "resolve_command"):
            current.make_context(name, words, parent=context)  # refuses what it does not take
    assert current is not None


@pytest.mark.parametrize("command", PACKING)
def test_only_the_data_are_missing(command, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    args = shlex.split(command)[1:]
    root = Path(args[args.index("--root") + 1])
    told = call(capfd, *args).complaint
    assert str(root) in told or "no pix3d.json" in told, told
    root.mkdir(parents=True)
    told = call(capfd, *args).complaint
    assert re.search(r"[Ee]xpected", told), told
    assert list(tmp_path.rglob("*.parquet")) == []


@pytest.mark.parametrize("command", DESCRIBED)
def test_configurations_and_overrides_are_read(command, monkeypatch):
    args = shlex.split(command)
    config = described(command)
    assert config is not None
    shipped = config.startswith("configs/") or config in shipped_configs()
    if not any(name in args[1:4] for name in RUNS) or not shipped:
        pytest.skip("not a run description of the repository")
    monkeypatch.chdir(ROOT)
    load_config(config, [arg for arg in args if "=" in arg and not arg.startswith("-")])


def test_every_data_set_has_its_block():
    packed = {shlex.split(c)[3] for c in PACKING if c.startswith("img2shape data pack")}
    assert packed | {"procedural"} == set(adapter_names())


def test_every_data_command_is_described():
    from cluster.cli.data import data_app

    page = (ROOT / "docs/guides/data.md").read_text()
    for command in data_app.registered_commands:
        assert f"data {command.name}" in page, command.name


@pytest.mark.parametrize("page", NAMES)
def test_yaml_is_read_and_sweeps_and_pairs_are_valid(page, tmp_path):
    from cluster.sweeps.description import load_sweep

    for kind, text in blocks(page):
        if kind != "yaml":
            continue
        tree = yaml.safe_load(text)
        if "axes" in tree:
            (tmp_path / "sweep.yaml").write_text(text.replace("configs/", f"{ROOT}/configs/"))
            load_sweep(tmp_path / "sweep.yaml")
        if "transfer" in tree:
            Transfer(**tree["transfer"])


def keys() -> set[str]:
    """Every key of a run description, for any method."""
    found = {"method.name"}
    for method in METHODS.values():
        found |= {f"method.{name}" for name in method.Config.model_fields}
    sections = {name: field.annotation for name, field in RunConfig.model_fields.items()}
    for section, model in {**sections, "transfer": Transfer}.items():
        if isinstance(model, type) and issubclass(model, BaseModel) and section != "method":
            found |= {f"{section}.{name}" for name in model.model_fields}
    return found


SECTIONS = (
    "method|data|transfer|network|optimizer|training|strategy|validation|evaluation|monitoring"
)


@pytest.mark.parametrize("page", NAMES)
def test_keys_exist(page):
    """Words like ``training.steps`` or ``data.root=data/mine`` in code, in text and in blocks."""
    text, known = (ROOT / page).read_text(), keys()
    code = "\n".join(re.findall(r"`([^`\n]+)`", text) + [block for _, block in blocks(page)])
    for key in re.findall(rf"(?<![\w./-])((?:{SECTIONS})\.[a-z_0-9]+)(?![\w(/-])", code):
        if not key.endswith((".yaml", ".md", ".py", ".parquet", ".json", ".jsonl")):
            assert key in known, key


TOP = "cluster|trainer|dataio|evalsuite|configs|k8s|benchmarks|tests|docs"


@pytest.mark.parametrize("page", NAMES)
def test_paths_exist(page):
    """Every file or folder of the repository that a page names in code or links to."""
    text = (ROOT / page).read_text()
    words = {word for code in re.findall(r"`([^`\n]+)`", text) for word in code.split()}
    if page in ("README.md", "CONTRIBUTING.md"):
        words |= set(re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", text))
    named = {word.rstrip(".,:") for word in words if re.match(rf"(?:{TOP})/", word)}
    missing = [
        path
        for path in named
        if not re.search(r"[<>{}*]|NAME", path)
        and not (ROOT / re.sub(r"\[.*\]$", "", path)).exists()
    ]
    assert sorted(missing) == [], f"{page} names files that do not exist"


@pytest.mark.parametrize("page", NAMES)
def test_python_is_valid(page):
    for kind, text in blocks(page):
        if kind == "python":
            compile(text, page, "exec")


def test_the_example_of_a_method_trains(monkeypatch):
    """The method that docs/guides/methods.md adds computes its losses, and gradients of them."""
    page = (ROOT / "docs/guides/methods.md").read_text()
    source = re.search(r'^```python title="trainer/methods/\w+\.py"\n(.*?)^```', page, re.M | re.S)
    assert source is not None
    scope: dict[str, Any] = {"__name__": "example"}
    exec(source[1], scope)  # the page's own code
    example = scope["CoralEntropy"]
    monkeypatch.setitem(METHODS, example.name, example)
    config = load_config(ROOT / "configs/procedural/source-only.yaml", [f"method={example.name}"])
    torch.manual_seed(0)
    method = example(config.method, NetworkConfig(tiny_width=8), num_classes=3, seed=0)
    labels = torch.tensor([0, 1, 2, 0])
    losses = method(
        {
            "source_images": Domain(torch.randn(4, 3, 64, 64), labels),
            "target_shapes": Domain(torch.randn(3, 2, 3, 64, 64), torch.full((3,), -1), 4),
        },
        Now(0, 0.5),
    )
    assert set(losses.terms) == {"classification", "coral", "entropy"}
    losses.total.backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_every_augmentation_has_its_row():
    from dataclasses import fields

    from dataio.loading.augment import AugmentConfig

    page = (ROOT / "docs/reference/configuration.md").read_text()
    for field in fields(AugmentConfig):
        assert f"`data.augment.{field.name}`" in page, field.name


@pytest.fixture(scope="module")
def generate():
    """docs/generate.py, which is no part of the package."""
    pytest.importorskip("latex2mathml", reason="the site is built with Python 3.11 or newer")
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_method_has_a_page_with_its_options(generate):
    for name, page in generate.pages_of_methods().items():
        text = (ROOT / "docs" / "methods" / f"{page}.md").read_text()
        found = [place for place in generate.PLACE.finditer(text) if place[2] == name]
        assert {place[1] for place in found} == {"method", "options"}, name
        for place in found:
            filled = generate._filled(place)
            if place[1] == "options":
                assert f"`{[*METHODS[name].Config.model_fields][-1]}`" in filled
                assert ("| source |" in filled) == (page != "baselines"), name


def test_sources_of_options_are_complete(generate):
    with pytest.raises(ValueError, match=r"astn's options .* differ in .*theta"):
        generate.method_options("astn", {"alpha": "figure 3"})


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in DOCUMENTS:
        assert f"- {page.relative_to(ROOT / 'docs')}\n" in navigation, page


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 1200
