"""Progress in a log: lines now and then with the time left, counted from where a resumed job began."""

import pytest

from vlmlaw.runtime import progress as module
from vlmlaw.runtime.progress import Progress, progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_lines_come_now_and_then_and_at_the_end(clock, capsys):
    shown = Progress(100, "training")
    for _ in range(100):
        clock[0] += 1
        shown.step("loss 1.0")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: 10/100, 10 s, 90 s left loss 1.0"
    assert lines[-1] == "training: 100/100, 100 s, 0 s left loss 1.0"
    assert len(lines) == 10


def test_a_resumed_job_reckons_with_its_own_pace(clock, capsys):
    shown = Progress(100, "training", done=80)
    for _ in range(3):
        clock[0] += 4
        shown.step()
    assert capsys.readouterr().err.splitlines()[-1] == "training: 83/100, 12 s, 68 s left"


def test_items_pass_unchanged(capsys):
    assert list(progress(iter("abc"), 3, "letters")) == ["a", "b", "c"]
    assert "letters: 3/3" in capsys.readouterr().err
    assert list(progress([], 0, "nothing")) == []


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress([1, 2], 2, "images")) == [1, 2]
    assert "images: 100%" in capsys.readouterr().err
