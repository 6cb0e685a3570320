"""The step log on a disk that is full."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from trainer.runs.records import StepLog

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_step_log_on_a_full_disk_names_itself_when_written_and_when_closed(tmp_path):
    path = tmp_path / "log.jsonl"
    log = StepLog(path, from_step=0)
    log._file.close()
    log._file = FULL.open("a")
    for attempt in (lambda: log.write({"step": 0}), log.close):
        with pytest.raises(OSError, match="No space left on device") as caught:
            attempt()
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(path)
