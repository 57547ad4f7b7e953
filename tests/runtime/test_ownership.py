"""One maker at a time for each output: real processes, really killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from vlmlaw.errors import UserError
from vlmlaw.runtime import ownership
from vlmlaw.runtime.ownership import HELD, living_owners, lock_of, owned
from vlmlaw.runtime.processes import ProcessId

HOLD = """
import sys, time
from pathlib import Path
from vlmlaw.runtime.ownership import owned
with owned(Path(sys.argv[1]), what="train"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold():
    """A function that has another process hold an output's lock."""
    started = []

    def start(out):
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_another_process_is_named_and_refused_or_awaited(hold, tmp_path, capsys):
    out = tmp_path / "cells" / "a"
    holder = hold(out)
    assert [(owner.what, owner.process.pid) for owner in living_owners(tmp_path)] == [("train", holder.pid)]
    with pytest.raises(UserError, match=rf"is being made by process {holder.pid} on"), owned(out, what="b", wait=False):
        pytest.fail("never here")
    looks = []

    def kill_at_the_second_look(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            holder.send_signal(signal.SIGKILL)
            holder.wait()

    with owned(out, what="b", sleep=kill_at_the_second_look) as waited:
        assert waited and lock_of(out).exists()
    assert f"process {holder.pid} on" in capsys.readouterr().err
    assert not lock_of(out).exists()
    assert living_owners(tmp_path) == []


def test_it_is_free_after_any_end_and_a_process_of_its_own_shares_it(tmp_path):
    out = tmp_path / "a"
    with pytest.raises(ZeroDivisionError), owned(out, what="train") as waited:
        assert not waited and os.environ[HELD] == str(out)
        with owned(out, what="a process that it started", wait=False) as inner:
            assert not inner
        raise ZeroDivisionError
    assert HELD not in os.environ
    with owned(out, what="again", wait=False) as waited:
        assert not waited


@pytest.mark.parametrize("lives", [True, False])
def test_a_process_of_another_machine_lives_as_long_as_it_renews_the_file(tmp_path, monkeypatch, lives):
    """Where locks hold on one machine only: a file that another one wrote, which nobody here has locked."""
    monkeypatch.setattr(ownership, "SECONDS_TO_WATCH", 0.6)
    monkeypatch.setattr(ownership, "SECONDS_BETWEEN_LOOKS", 0.1)
    out, ended = tmp_path / "a", threading.Event()
    process = {"host": "elsewhere", "pid": 1, "started": "5", "slurm_job": "77"}
    lock_of(out).write_text(json.dumps({"out": "a", "what": "train", "process": process, "since": 0.0, "head": None}))

    def renew():
        count = 0
        while lives and not ended.wait(0.1):
            count += 1
            os.utime(lock_of(out), (count, count))

    renewing = threading.Thread(target=renew)
    renewing.start()
    assert [owner.process.host for owner in living_owners(tmp_path)] == (["elsewhere"] if lives else [])
    began = time.monotonic()

    def give_up(seconds):
        time.sleep(seconds)
        if time.monotonic() - began > 1.5:
            raise TimeoutError

    try:
        with owned(out, what="b", sleep=give_up):
            assert not lives
    except TimeoutError:
        assert lives
    finally:
        ended.set()
        renewing.join()


def test_a_file_that_says_nothing_is_nobodys(tmp_path):
    for text in ("", "{", "[]", '{"process": 3}', "\0" * 9):
        lock_of(tmp_path / "a").write_text(text)
        assert living_owners(tmp_path) == []
        with owned(tmp_path / "a", what="b", wait=False) as waited:
            assert not waited


def test_a_process_is_known_by_more_than_its_number():
    own = ProcessId.of_this()
    assert own.is_alive and own.is_here and own.host == socket.gethostname()
    assert not ProcessId(own.host, own.pid, started="1").is_alive
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    assert ProcessId(own.host, ended.pid).is_alive
    time.sleep(1)
    assert not ProcessId(own.host, ended.pid).is_alive, "a zombie has ended"
    ended.wait()
