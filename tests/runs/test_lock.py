"""The refusal of a folder that another process has just begun to train in."""

import json
import sys
from pathlib import Path
from threading import Timer

import pytest

from fastdcgan.runs.folder import RunFolder
from fastdcgan.runs.lock import locked

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no locks")


def test_a_holder_that_has_yet_to_write_its_number_is_waited_for(tmp_path: Path) -> None:
    import fcntl

    folder = RunFolder(tmp_path)
    with folder.lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write = Timer(0.2, folder.lock.write_text, [json.dumps({"pid": 123, "host": "here", "since": "today"})])
        write.start()
        named = pytest.raises(ValueError, match="in use by process 123 on here, which has been training there since")
        with named, locked(folder, say=print):
            pass
        write.join()


def test_a_holder_that_names_nothing_is_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr("fastdcgan.runs.lock._SECONDS_BETWEEN_LOOKS", 0.0)
    folder = RunFolder(tmp_path)
    with folder.lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="in use by another process"), locked(folder, say=print):
            pass
