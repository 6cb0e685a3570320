"""evalsuite needs NumPy and PyArrow, and nothing else of what this project installs."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

from tests.command import ROOT

BLOCKED = (
    *("torch", "faiss", "sklearn", "scipy", "ray", "typer", "rich", "matplotlib", "jinja2"),
    *("markupsafe", "yaml", "PIL", "pydantic", "numba", "threadpoolctl"),
    *("trainer", "dataio", "cluster"),
)

BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""

WORK = """
import json
import evalsuite
import evalsuite.vectors.embedding_parts
import numpy as np

random = np.random.default_rng(0)
def cloud(side, count):
    labels = [f"class-{i % 3}" for i in range(count)]
    vectors = random.normal(size=(count, 4))
    return evalsuite.Embeddings([f"{side}-{i}" for i in range(count)], labels, vectors)

queries, gallery = cloud("query", 12), cloud("shape", 30)
evalsuite.write_embeddings("q.parquet", queries)
queries = evalsuite.read_embeddings("q.parquet")
result = evalsuite.evaluate(queries, gallery, shards=2)
distances = np.linalg.norm(queries.vectors[:, None] - gallery.vectors, axis=2)
matrix = evalsuite.evaluate_distances(distances, queries.labels, gallery.labels, protocol="shrec")
for name, options in (("a", {}), ("b", {"metric": "cosine"})):
    evalsuite.evaluate(queries, gallery, **options).save(name)
pair = [evalsuite.read_scores(name) for name in "ab"]
found = evalsuite.compare(*pair, resamples=20)
classes = evalsuite.compare_classes(*pair, resamples=20)
ranges = evalsuite.intervals(result, resamples=20)
print(json.dumps({
    "headline": result.headline,
    "matrix": matrix.headline,
    "compared": {name: [value.low, value.high] for name, value in found.metrics.items()},
    "classes": [row.label for row in classes],
    "intervals": {name: [value.low, value.high] for name, value in ranges.items()},
}))
"""


def run(code: str, folder) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_numpy_and_pyarrow_are_enough_and_give_the_same_numbers(tmp_path):
    block = BLOCK.format(blocked=set(BLOCKED))
    alone = json.loads(run(block + WORK, tmp_path))
    assert alone["classes"] == ["class-0", "class-1", "class-2"]
    assert alone == json.loads(run(WORK, tmp_path))


def test_the_block_blocks(tmp_path):
    block = BLOCK.format(blocked=set(BLOCKED))
    with pytest.raises(AssertionError, match="No module named 'threadpoolctl'"):
        run(block + "import threadpoolctl", tmp_path)


def test_importing_evalsuite_loads_no_optional_library(tmp_path):
    code = "import evalsuite, sys, json; print(json.dumps(sorted(sys.modules)))"
    loaded = {name.partition(".")[0] for name in json.loads(run(code, tmp_path))}
    assert loaded & set(BLOCKED) <= {"threadpoolctl"}
