"""Building the benchmark's styles: the name says which, and no folder is taken for the other."""

from __future__ import annotations

import pytest

from cluster.data_jobs import make_benchmark
from dataio.datasets.procedural import SIZES, BenchmarkSize
from dataio.records import DataError
from dataio.shards.opening import load_manifest

TINY = BenchmarkSize(("bottle", "chair"), (1, 0, 1), (1, 0, 1), (1, 0, 1))


@pytest.mark.parametrize(("style", "name"), [("a", "procedural-tiny"), ("b", "procedural-tiny-b")])
def test_the_data_set_is_named_by_size_and_style(tmp_path, monkeypatch, style, name):
    monkeypatch.setitem(SIZES, "tiny", TINY)
    options = {"size": "tiny", "seed": 0, "workers": 1}
    made = make_benchmark(tmp_path, style=style, **options)
    assert made.metadata["dataset"] == name
    assert make_benchmark(tmp_path, style=style, **options).fingerprint == made.fingerprint
    assert load_manifest(tmp_path).fingerprint == made.fingerprint
    other = "b" if style == "a" else "a"
    with pytest.raises(DataError, match=f"holds data set '{name}' .* not 'procedural-tiny"):
        make_benchmark(tmp_path, style=other, **options)
