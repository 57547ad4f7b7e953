"""Logs: TensorBoard's files, read back by its own reader; a line a step in train.jsonl; tools that are not there."""

import json
import random
import struct
import sys
import types

import numpy as np
import pytest
import torch
from tensorboardX.proto.event_pb2 import Event, SessionLog

from vlmlaw.errors import UserError
from vlmlaw.runtime.loggers import DVCLIVE, EVENTS, POINTS, TrainLog, keep_logs


def events(path):
    """The events of a file, by the protocol buffers' own parser; each record is length, checksum, event, checksum."""
    content, at, found = path.read_bytes(), 0, []
    while at < len(content):
        (length,) = struct.unpack("<Q", content[at : at + 8])
        found.append(Event.FromString(content[at + 12 : at + 12 + length]))
        at += 16 + length
    assert at == len(content)
    return found


def scalars(path):
    """(step, name, value) of every point."""
    return [(event.step, value.tag, value.simple_value) for event in events(path) for value in event.summary.value]


def run(folder, steps, *, first=0, until=None, kinds=("tensorboard",), on=True):
    with TrainLog(folder, "a cell", steps=steps, kinds=kinds, first=first, on=on) as log:
        for step in range(first, until or steps):
            log.write({"step": step, "loss": 4.0 - step / 8, "rate": 1.0}, {"mfu": 0.5})
    return log


def test_tensorboard_files_hold_the_points(tmp_path):
    run(tmp_path, 3)
    (path,) = tmp_path.glob(f"{EVENTS}*")
    header = events(path)[0]
    assert header.file_version == "brain.Event:2" and header.wall_time > 1e9
    expected = [(step, *pair) for step in range(3) for pair in (("loss", 4.0 - step / 8), ("rate", 1.0), ("mfu", 0.5))]
    assert scalars(path) == expected


def test_a_resumed_run_tells_tensorboard_where_it_starts(tmp_path):
    run(tmp_path, 8, until=6)
    lines = (tmp_path / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join(lines[:4]))  # as a checkpoint of step 4 does
    log = run(tmp_path, 8, first=4)
    before, after = sorted(tmp_path.glob(f"{EVENTS}*"))
    assert [step for step, name, _ in scalars(before) if name == "loss"] == [0, 1, 2, 3, 4, 5]
    assert [step for step, name, _ in scalars(after) if name == "loss"] == [4, 5, 6, 7]
    starts = [event.step for event in events(after) if event.session_log.status == SessionLog.START]
    assert starts == [4] and not any(event.session_log.status for event in events(before))
    assert [json.loads(line)["step"] for line in (tmp_path / "train.jsonl").read_text().splitlines()] == list(range(8))
    assert log.last_loss == 4.0 - 7 / 8


def test_tensorboard_itself_reads_it(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(tmp_path, 8, until=6)
    run(tmp_path, 8, first=4)
    found = accumulator.EventAccumulator(str(tmp_path))
    found.Reload()
    assert [(point.step, point.value) for point in found.Scalars("loss")] == [(s, 4.0 - s / 8) for s in range(8)]


def test_long_runs_have_as_many_points_as_a_screen_shows(tmp_path):
    steps = 10 * POINTS + 7
    run(tmp_path, steps)
    (path,) = tmp_path.glob(f"{EVENTS}*")
    shown = [step for step, name, _ in scalars(path) if name == "loss"]
    assert POINTS <= len(shown) <= 1.1 * POINTS and shown[0] == 0 and shown[-1] == steps - 1
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == steps


def test_all_processes_but_one_write_nothing(tmp_path):
    log = run(tmp_path, 3, on=False)
    assert list(tmp_path.iterdir()) == [] and log.last_loss == 4.0 - 2 / 8


def test_a_training_goes_on_without_the_default_tool(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    run(tmp_path, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "a cell: no TensorBoard files" in line and "pip install tensorboardX" in line


def test_writing_logs_draws_no_random_number(tmp_path):
    """A training with logs must end in the same weights as one without."""
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()
    run(tmp_path, 3)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()
    assert before == after


@pytest.mark.parametrize("kind", ["wandb", "dvclive"])
def test_a_tool_that_is_missing_is_an_error_that_says_so(tmp_path, monkeypatch, kind):
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(UserError, match=f"compute.logs names {kind}.*pip install {kind}"):
        run(tmp_path, 3, kinds=(kind,))


class Recorder:
    """Stands for a tool's run: keeps what is asked of it."""

    def __init__(self, calls):
        self.calls, self.step = calls, None

    def __getattr__(self, name):
        return lambda *args, **given: self.calls.append((name, self.step, args, given))


def test_weights_and_biases_gets_the_points_and_the_same_run_again(tmp_path, monkeypatch):
    calls, starts = [], []
    fake = types.SimpleNamespace(init=lambda **given: (starts.append(given), Recorder(calls))[1])
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run(tmp_path, 4, until=2, kinds=("wandb",))
    run(tmp_path, 4, first=2, kinds=("wandb",))
    assert starts[0] == starts[1] and starts[0]["resume"] == "allow" and starts[0]["name"] == "a cell"
    assert [(name, given.get("step")) for name, _, _, given in calls] == [
        *(("log", 0), ("log", 1), ("finish", None)),
        *(("log", 2), ("log", 3), ("finish", None)),
    ]
    assert calls[0][2] == ({"loss": 4.0, "rate": 1.0, "mfu": 0.5},)


def test_dvclive_gets_the_points(tmp_path, monkeypatch):
    calls, starts = [], []
    live = lambda *args, **given: (starts.append((args, given)), Recorder(calls))[1]  # noqa: E731
    monkeypatch.setitem(sys.modules, "dvclive", types.SimpleNamespace(Live=live))
    run(tmp_path, 4, until=2, kinds=("dvclive",))
    run(tmp_path, 4, first=2, kinds=("dvclive",))
    assert [given["resume"] for _, given in starts] == [False, True]
    assert starts[0][0] == (str(tmp_path / DVCLIVE),)
    losses = [(step, args[1]) for name, step, args, _ in calls if name == "log_metric" and args[0] == "loss"]
    assert losses == [(step, 4.0 - step / 8) for step in range(4)]


def test_a_finished_training_keeps_its_logs_and_no_older_ones(tmp_path):
    work, out = tmp_path / "cell.work", tmp_path / "cell"
    work.mkdir()
    out.mkdir()
    (out / f"{EVENTS}.of.before").write_bytes(b"")
    run(work, 3)
    (work / DVCLIVE).mkdir()
    (work / DVCLIVE / "metrics.json").write_text("{}")
    keep_logs(work, out)
    (path,) = out.glob(f"{EVENTS}*")
    assert len(scalars(path)) == 9
    assert (out / "train.jsonl").read_text() == (work / "train.jsonl").read_text()
    assert (out / DVCLIVE / "metrics.json").exists()
