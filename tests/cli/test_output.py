"""A job whose output nobody reads any more goes on, and says the rest in its log."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path
from vlmlaw.cli.output import redirect_broken_stdout
redirect_broken_stdout(Path({log!r}))
sys.stdin.readline()
for i in range(3):
    print("to stdout", i)
    print("to stderr", i, file=sys.stderr)
"""


@pytest.mark.parametrize("broken", ["stdout", "stderr"])
def test_what_nobody_reads_goes_into_the_log(tmp_path, broken):
    log = tmp_path / "job.log"
    log.write_text("what tee wrote\n")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", PROGRAM.format(log=str(log))], text=True, **pipes) as job:
        getattr(job, broken).close()
        job.stdin.write("go on\n")
        job.stdin.close()
        other = "stderr" if broken == "stdout" else "stdout"
        read = getattr(job, other).read()
    assert job.returncode == 0, "not even at exit, when Python flushes both"
    assert log.read_text() == "what tee wrote\n" + "".join(f"to {broken} {i}\n" for i in range(3))
    assert read == "".join(f"to {other} {i}\n" for i in range(3))
