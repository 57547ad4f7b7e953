"""Outputs appear whole or not at all, also when the process is killed or the disk is full."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vlmlaw.runtime.whole_files import whole_file, whole_folder


def test_a_file_appears_at_the_end(tmp_path):
    out = tmp_path / "deep" / "out.json"
    with whole_file(out) as partial:
        partial.write_text("new")
        assert not out.exists()
    assert out.read_text() == "new"
    assert [path.name for path in out.parent.iterdir()] == ["out.json"]


def test_a_folder_takes_the_place_of_the_old_one(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "stale").write_text("old")
    with whole_folder(out) as folder:
        (folder / "fresh").write_text("new")
        assert (out / "stale").exists()
    assert [path.name for path in out.iterdir()] == ["fresh"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("context", [whole_file, whole_folder])
def test_a_failed_write_leaves_what_was_there(tmp_path, context, error):
    out = tmp_path / "out"
    with context(out) as partial:
        (partial / "a" if context is whole_folder else partial).write_text("whole")
    with pytest.raises(type(error)), context(out) as partial:
        (partial / "a" if context is whole_folder else partial).write_text("ha")
        raise error
    assert (out / "a" if context is whole_folder else out).read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_noticed(tmp_path):
    """The write fails when the buffer is flushed, at the latest by the time the file is closed."""
    with pytest.raises(OSError, match="No space left"), whole_file(tmp_path / "out") as partial:
        partial.symlink_to("/dev/full")
        partial.write_text("x" * 100_000)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from vlmlaw.runtime.whole_files import whole_file, whole_folder
out = Path(sys.argv[2])
with globals()[sys.argv[1]](out) as partial:
    (partial / "a" if sys.argv[1] == "whole_folder" else partial).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("context", ["whole_file", "whole_folder"])
def test_a_killed_process_leaves_nothing_that_looks_whole(tmp_path, context):
    out = tmp_path / "out"
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, context, str(out)], env=os.environ | {"PYTHONPATH": source}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    with globals()[context](out) as partial:  # the next run starts clean
        assert list(partial.iterdir()) == [] if context == "whole_folder" else not partial.exists()
        (partial / "a" if context == "whole_folder" else partial).write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
