"""The training loop: interrupted and resumed equals uninterrupted, and what cannot go on says so."""

import errno
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import threading

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from vlmlaw.errors import UserError
from vlmlaw.training import checkpoint, interruption
from vlmlaw.training.distributed import EXIT_RUN_ME_AGAIN
from vlmlaw.training.interruption import Stopped
from vlmlaw.training.loop import fit
from vlmlaw.training.optimizer import learning_rate_share, make_optimizer
from vlmlaw.training.settings import OptimizerSettings
from vlmlaw.training.workspace import clear_workspace, use_repeatable_arithmetic, workspace_of

STEPS = 12


class Training:
    """A small training with dropout, so that its loss draws random numbers; `events[step]` happens before a step."""

    def __init__(self, *, width=4, steps=STEPS, checkpoint_seconds=1e9, rate=0.1, events=None):
        use_repeatable_arithmetic(3)
        torch.set_num_threads(1)  # as many in this process as in the one that is killed: sums depend on it
        self.module = nn.Sequential(nn.Linear(3, width), nn.LayerNorm(width), nn.Dropout(0.5), nn.Linear(width, 1))
        self.optimizer = make_optimizer([(rate, self.module.parameters())], weight_decay=0.1, beta2=0.98)
        self.settings = OptimizerSettings(
            steps=steps, batch_size=1, learning_rate=rate, checkpoint_seconds=checkpoint_seconds
        )
        self.events = events or {}

    def loss_of_step(self, step):
        self.events.get(step, lambda: None)()
        inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        return (self.module(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean()

    def run(self, folder):
        return fit(
            self.module,
            self.optimizer,
            loss=self.loss_of_step,
            settings=self.settings,
            workspace=folder,
            what="small training",
        )

    def result(self, folder):
        """What must not depend on interruptions: weights, optimizer and log, bit for bit."""
        weights = {name: p.detach().clone() for name, p in self.module.named_parameters()}
        moments = [state["exp_avg_sq"] for state in self.optimizer.state.values()]
        return weights, moments, [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    training, folder = Training(), tmp_path_factory.mktemp("uninterrupted")
    spent = training.run(folder)
    return spent, training.result(folder)


def press(number):
    # To this thread, so that Python's handler runs before the call returns: signals to a process may arrive together.
    return lambda: signal.pthread_kill(threading.get_ident(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [0, 6, STEPS - 1])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, uninterrupted, number, step):
    """Also where the last step was done: the figures of the run are then those of its log."""
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped:
        Training(events={step: press(number)}).run(tmp_path)
    assert stopped.value.code == EXIT_RUN_ME_AGAIN == 75
    assert signal.getsignal(number) is before
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == step + 1
    training = Training()
    spent = training.run(tmp_path)
    assert_same(training.result(tmp_path), uninterrupted[1])
    assert spent["last_loss"] == uninterrupted[0]["last_loss"] and spent["steps"] == STEPS
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    both = {2: lambda: [press(signal.SIGINT)() for _ in range(2)]}
    # Set here, since what a background shell starts ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            Training(events=both).run(tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)


KILLED = f"""
import os, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from {__name__} import Training
from vlmlaw.training import interruption
interruption.LEAST_TIME_BETWEEN_CHECKPOINTS = 0
Training(checkpoint_seconds=1e-9, events={{7: lambda: os.kill(os.getpid(), 9)}}).run(Path(sys.argv[1]))
"""


def test_killed_and_resumed_equals_uninterrupted(tmp_path, uninterrupted):
    """kill -9 leaves a checkpoint of step 7 and a log that the next run puts back to it."""
    path = [folder for folder in sys.path if folder]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), *path], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    (tmp_path / "train.jsonl").open("a").write('{"step": 7, "lo')  # the kill may cut a line
    training = Training(events={step: lambda: pytest.fail("done before") for step in range(7)})
    training.run(tmp_path)
    assert_same(training.result(tmp_path), uninterrupted[1])


def test_checkpoints_have_no_effect(tmp_path, uninterrupted, monkeypatch):
    monkeypatch.setattr(interruption, "LEAST_TIME_BETWEEN_CHECKPOINTS", 0)
    training = Training(checkpoint_seconds=1e-9)
    spent = training.run(tmp_path)
    assert_same(training.result(tmp_path), uninterrupted[1])
    assert spent["last_loss"] == uninterrupted[1][2][-1]["loss"]


def test_an_earlier_checkpoint_is_removed_beside_the_training(tmp_path, monkeypatch, uninterrupted):
    """The third step is computed while the first one's removal hangs, as on a slow disk; the end waits for it."""
    hanging, seen, remove = threading.Event(), [], shutil.rmtree

    def slow_rmtree(folder, **options):
        assert threading.current_thread() is threading.main_thread() or hanging.wait(60)
        remove(folder, **options)

    def go_on():
        seen.extend(sorted(path.parent.name for path in tmp_path.glob("checkpoint-*/state.json")))
        hanging.set()

    monkeypatch.setattr(interruption, "LEAST_TIME_BETWEEN_CHECKPOINTS", 0)
    monkeypatch.setattr(checkpoint.shutil, "rmtree", slow_rmtree)
    training = Training(checkpoint_seconds=1e-9, events={2: go_on})
    training.run(tmp_path)
    assert seen == ["checkpoint-1", "checkpoint-2"]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == [f"checkpoint-{STEPS - 1}"]
    assert_same(training.result(tmp_path), uninterrupted[1])


def test_time_and_memory_are_added_up(tmp_path):
    with pytest.raises(Stopped):
        Training(events={3: press(signal.SIGTERM)}).run(tmp_path)
    path = tmp_path / "checkpoint-4" / "state.json"
    state = json.loads(path.read_text())
    state["spent"] |= {"wall_seconds": 1000.0, "cpu_seconds": 500.0, "peak_memory_mib": 1e6}
    path.write_text(json.dumps(state))
    spent = Training().run(tmp_path)
    assert spent["wall_seconds"] > 1000 and spent["cpu_seconds"] > 500 and spent["peak_memory_mib"] == 1e6


def test_a_loss_that_is_not_finite_ends_before_the_update(tmp_path):
    training = Training()

    def loss_of_step(step):
        if step < 4:
            return Training.loss_of_step(training, step)
        before.update({name: p.detach().clone() for name, p in training.module.named_parameters()})
        return sum(p.sum() for p in training.module.parameters()) * math.inf

    before = {}
    training.loss_of_step = loss_of_step
    with pytest.raises(UserError, match=r"small training: at step 4 the loss is (-?inf|nan) and the gradient's norm"):
        training.run(tmp_path)
    assert_same(dict(training.module.named_parameters()), before | {})
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 4


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch, uninterrupted):
    save, saved = dcp.save, []

    def save_until_full(state, *, checkpoint_id, **given):
        if len(saved) == 3:
            checkpoint_id.mkdir()
            (checkpoint_id / "__0_0.distcp").write_bytes(b"half a checkpoint")
            raise OSError(errno.ENOSPC, "No space left on device")
        saved.append(checkpoint_id.name)
        save(state, checkpoint_id=checkpoint_id, **given)

    monkeypatch.setattr(dcp, "save", save_until_full)
    monkeypatch.setattr(interruption, "LEAST_TIME_BETWEEN_CHECKPOINTS", 0)
    with pytest.raises(OSError, match="No space left"):
        Training(checkpoint_seconds=1e-9).run(tmp_path)
    monkeypatch.undo()
    assert saved == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3", "checkpoint-4", "train.jsonl"]
    training = Training(events={step: lambda: pytest.fail("a whole checkpoint was there") for step in range(3)})
    training.run(tmp_path)
    assert_same(training.result(tmp_path), uninterrupted[1])


@pytest.mark.parametrize("damage", ["other shape", "cut", "log lost", "other file"])
def test_a_checkpoint_that_does_not_fit_is_an_error_that_says_what_to_do(tmp_path, damage):
    with pytest.raises(Stopped):
        Training(events={3: press(signal.SIGTERM)}).run(tmp_path)
    checkpoint = tmp_path / "checkpoint-4"
    expected = "cannot be resumed"
    if damage == "other shape":
        expected = "is of another training: its weights differ in 0.bias, 0.weight, 1.bias"
    elif damage == "cut":
        for path in checkpoint.glob("*.distcp"):
            path.write_bytes(path.read_bytes()[:500])
    elif damage == "log lost":
        (tmp_path / "train.jsonl").write_text("")
        expected = re.escape("checkpoint-4 is of another training: 0 lines of log")
    else:
        (checkpoint / "state.json").write_text('{"step": 3}')
    with pytest.raises(UserError, match=f"{expected}.*elete .* to start afresh"):
        Training(width=8 if damage == "other shape" else 4).run(tmp_path)


def test_the_rate_rises_linearly_then_follows_a_cosine():
    shares = [learning_rate_share(step, steps=100, warmup_share=0.1, final_share=0.02) for step in range(100)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    floor = 0.02
    for step in range(10, 100):
        cosine = (1 + math.cos(math.pi * (step - 10) / 90)) / 2
        assert shares[step] == pytest.approx(floor + (1 - floor) * cosine)
    assert shares[10] == 1 and shares[55] == pytest.approx((1 + floor) / 2)
    assert floor < shares[99] < floor + 0.001


def test_with_llavas_constants_rate_and_moments_are_its_trainers():
    """transformers' cosine from the end of the warm-up on, and AdamW's defaults."""
    module = nn.Linear(2, 2)
    theirs = torch.optim.AdamW(module.parameters(), lr=1.0)
    schedule = get_cosine_schedule_with_warmup(theirs, num_warmup_steps=3, num_training_steps=100)
    shares = []
    for _ in range(100):
        shares.append(schedule.get_last_lr()[0])
        theirs.step()
        schedule.step()
    ours = [learning_rate_share(step, steps=100, warmup_share=0.03, final_share=0) for step in range(100)]
    assert ours[3:] == pytest.approx(shares[3:]) and ours[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    settings = OptimizerSettings(steps=1, batch_size=1, learning_rate=1.0, beta2=0.999)
    made = make_optimizer([(1.0, module.parameters())], weight_decay=0, beta2=settings.beta2)
    assert {group["betas"] for group in made.param_groups} == {theirs.defaults["betas"]} == {(0.9, 0.999)}


@pytest.mark.parametrize(("steps", "warmup_share"), [(1, 0.0), (1, 1.0), (3, 1.0), (2, 0.5)])
def test_short_runs_have_rates_too(steps, warmup_share):
    for step in range(steps):
        assert 0 < learning_rate_share(step, steps=steps, warmup_share=warmup_share, final_share=0.02) <= 1


def test_the_log_holds_the_rate_of_each_step(uninterrupted):
    lines = uninterrupted[1][2]
    assert [line["step"] for line in lines] == list(range(STEPS))
    assert [line["rate"] for line in lines] == [
        learning_rate_share(step, steps=STEPS, warmup_share=0.05, final_share=0.02) for step in range(STEPS)
    ]


def test_matrices_decay_and_vectors_do_not():
    module = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Conv2d(1, 1, 3))
    module[3].requires_grad_(False)
    optimizer = make_optimizer(
        [(0.1, module[:2].parameters()), (0.2, module[2:].parameters())], weight_decay=0.5, beta2=0.98
    )
    found = [
        (group["weight_decay"], group["lr"], [p.ndim for p in group["params"]]) for group in optimizer.param_groups
    ]
    assert found == [(0.5, 0.1, [2, 2]), (0.0, 0.1, [1]), (0.0, 0.2, [1, 1])]
    before = module[2].weight.detach().clone()
    (module[0].weight.sum() * 0 + module[2].weight.sum() * 0).backward()
    optimizer.step()
    torch.testing.assert_close(module[2].weight, before)
    assert module[0].weight.abs().sum() > 0


def test_the_workspace_lies_beside_and_goes(tmp_path):
    out = tmp_path / "cell"
    assert workspace_of(out) == tmp_path / "cell.work"
    workspace_of(out).mkdir()
    (workspace_of(out) / "checkpoint.pt").write_text("")
    clear_workspace(out)
    clear_workspace(out)
    assert list(tmp_path.iterdir()) == []
