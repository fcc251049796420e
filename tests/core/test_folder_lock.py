"""Two writers of one folder, and what a killed one leaves behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from leukoscope.core.errors import UsageError
from leukoscope.core.run_folder import LOCK, only_writer

HOLDER = """
import sys, time
from pathlib import Path
from leukoscope.core.run_folder import only_writer
with only_writer(Path(sys.argv[1]), "runs a study in"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_writer_is_told_who_writes_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        words = rf"run: another process runs a study in this folder \(process {other.pid} on .*\d\d"
        with pytest.raises(UsageError, match=words), only_writer(folder, "runs a study in"):
            pass
        other.send_signal(signal.SIGKILL)
    assert (folder / LOCK).is_file()
    with only_writer(folder, "runs a study in"):
        pass
    assert not list(folder.iterdir())


def test_a_folder_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="failed"), only_writer(tmp_path, "writes to"):
        raise ValueError("failed")
    with only_writer(tmp_path, "writes to"), pytest.raises(UsageError, match="writes to this"):
        only_writer(tmp_path, "writes to").__enter__()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_lock_that_is_a_link_leads_nowhere(tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(other)
    with pytest.raises(OSError, match="symbolic links"), only_writer(tmp_path / "run", "writes to"):
        pass
    assert other.read_text() == "kept"
