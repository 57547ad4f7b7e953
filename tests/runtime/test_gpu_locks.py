"""Jobs of one machine get GPUs of their own. Devices are names here; the locks are real."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from vlmlaw.errors import UserError
from vlmlaw.runtime.gpu_locks import SCHEDULERS, VISIBLE, own_gpus, visible_devices


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine with two devices and no cluster."""
    monkeypatch.setenv("VLMLAW_GPU_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setenv(VISIBLE, "0,1")
    for name in SCHEDULERS:
        monkeypatch.delenv(name, raising=False)


def never(seconds):
    raise TimeoutError(f"would wait {seconds} s")


def test_two_jobs_get_different_devices_and_a_third_waits():
    with own_gpus(1) as first:
        assert os.environ[VISIBLE] == "0"
        os.environ[VISIBLE] = "0,1"  # as another process sees it
        with own_gpus(1) as second:
            assert (first, second) == (["0"], ["1"])
            os.environ[VISIBLE] = "0,1"
            with pytest.raises(TimeoutError), own_gpus(1, sleep=never):
                pass
    assert os.environ[VISIBLE] == "0,1"


def test_a_job_of_two_waits_without_holding_one():
    with own_gpus(1):
        os.environ[VISIBLE] = "0,1"
        with pytest.raises(TimeoutError), own_gpus(2, sleep=never):
            pass
        with own_gpus(1, sleep=never) as other:
            assert other == ["1"]


def _work(seconds, found):
    with own_gpus(1, sleep=lambda _: time.sleep(0.01)) as devices:
        began = time.monotonic()
        time.sleep(seconds)
        found.put((devices[0], began, time.monotonic()))


def test_many_processes_never_share_a_device():
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    workers = [context.Process(target=_work, args=(0.05, found)) for _ in range(8)]
    for worker in workers:
        worker.start()
    spans = [found.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert {device for device, *_ in spans} <= {"0", "1"}
    for device in ("0", "1"):
        own = sorted(span[1:] for span in spans if span[0] == device)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(own))


def test_a_killed_job_leaves_its_device_free():
    program = (
        "import time; from vlmlaw.runtime.gpu_locks import own_gpus\n"
        "with own_gpus(2): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None and job.stdout.readline() == "held\n"
        with pytest.raises(TimeoutError), own_gpus(1, sleep=never):
            pass
        job.send_signal(signal.SIGKILL)
    with own_gpus(2, sleep=never) as devices:
        assert devices == ["0", "1"]


@pytest.mark.parametrize("count", [0, 2])
def test_a_cluster_gives_devices_itself(monkeypatch, count):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv(VISIBLE, "3")
    with own_gpus(count) as devices:
        assert devices == [] and os.environ[VISIBLE] == "3"


def test_a_job_of_none_sees_none_and_one_by_hand_sees_all():
    with own_gpus(0) as devices:
        assert devices == [] and os.environ[VISIBLE] == ""
    with own_gpus(None) as devices:
        assert devices == [] and os.environ[VISIBLE] == "0,1"


def test_too_few_devices_is_an_error_with_what_to_do():
    with pytest.raises(UserError, match=r"needs 3 GPU\(s\); found 2 \(0, 1\)"), own_gpus(3):
        pass


def test_devices_are_the_drivers_where_none_are_named(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho GPU-aa\necho GPU-bb\n")
    tool.chmod(0o755)
    monkeypatch.delenv(VISIBLE)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert visible_devices() == ["GPU-aa", "GPU-bb"]
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert visible_devices() == []
