"""The benchmark of scoring, at its smallest size: it runs, and everybody finds the same numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "evaluate.py"


@pytest.mark.slow
def test_contenders_agree_and_are_set_against_the_product(tmp_path):
    out = tmp_path / "found.json"
    contenders = ("product", "ours float32", "ours exact", "numpy argsort", "faiss full list")
    found = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--only", *contenders, "--json", str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert found.returncode == 0, found.stderr
    results = json.loads(out.read_text())["quick"]
    assert set(results) == set(contenders)
    assert all("x product" in line for line in found.stdout.splitlines()[1:])
    precisions = {name: r["result"]["mAP"] for name, r in results.items() if name != "product"}
    assert max(precisions.values()) == pytest.approx(min(precisions.values()), abs=1e-5)
