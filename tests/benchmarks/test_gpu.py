"""The benchmark of training steps, at its smallest size, on the packages that it names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"
# What a machine that is lent for a measurement does not have.
ABSENT = ("ray", "faiss", "typer", "deepspeed", "trimesh", "embreex", "matplotlib", "jinja2")
RUN = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({ABSENT}))
sys.path.insert(0, {str(SCRIPT.parent)!r})
sys.argv[0] = {str(SCRIPT)!r}
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""


def launch(*options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", RUN, *options], capture_output=True, text=True, env=environment
    )


@pytest.mark.slow
def test_tiny_steps_on_the_cpu_fill_the_table(tmp_path):
    done = launch("--cpu", "--out", str(tmp_path / "found"), "--micro-batch", "4")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["device"].startswith("CPU")
    assert "no measurement" in found["device"]
    assert [row["loader"] for row in found["rows"]] == ["off", "on"]
    for row in found["rows"]:
        assert row["pictures"] == 3 + 3 * 2
        assert row["fastest"] <= row["seconds"] <= row["slowest"]
        assert row["pictures_per_second"] == pytest.approx(row["pictures"] / row["seconds"])
        assert row["mfu"] is None
    assert (tmp_path / "found.md").read_text() in done.stdout


@pytest.mark.slow
def test_without_a_gpu_it_ends_with_one_line():
    done = launch()
    assert done.returncode == 2
    assert done.stdout.startswith("no GPU")
    assert len(done.stdout.splitlines()) == 1
