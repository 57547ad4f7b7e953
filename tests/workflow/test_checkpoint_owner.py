"""A checkpoint is carried on by the training that left it, and by no other."""

import os
from dataclasses import replace

import pytest

from vlmlaw.training.settings import OptimizerSettings
from vlmlaw.workflow import checkpoint_owner as resume

SETTINGS = OptimizerSettings(steps=3, batch_size=2, learning_rate=0.1)


@pytest.fixture
def claimed(tmp_path):
    """A workspace with a checkpoint, its input folder, and a function that claims it again."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "tokens").write_bytes(b"abc")

    def claim(settings=SETTINGS, code="vlmlaw.errors"):
        return resume.claim(tmp_path / "out.work", code=code, settings=settings, inputs=[tmp_path / "in"])

    assert not claim()
    (tmp_path / "out.work" / "checkpoint.pt").write_bytes(b"weights")
    return tmp_path, claim


def test_the_same_training_carries_on(claimed):
    folder, claim = claimed
    assert claim()
    assert claim(replace(SETTINGS, checkpoint_seconds=5))
    assert (folder / "out.work" / "checkpoint.pt").read_bytes() == b"weights"


@pytest.mark.parametrize("change", ["settings", "code", "input", "new input", "owner lost"])
def test_any_other_starts_afresh(claimed, change):
    folder, claim = claimed
    given = {}
    if change == "settings":
        given["settings"] = replace(SETTINGS, learning_rate=0.2)
    elif change == "code":
        given["code"] = "vlmlaw.settings"
    elif change == "input":
        (folder / "in" / "tokens").write_bytes(b"abd")
    elif change == "new input":
        (folder / "in" / "more").write_bytes(b"")
    else:
        (folder / "out.work" / resume.OWNER).write_text("{")
    assert not claim(**given)
    assert not (folder / "out.work" / "checkpoint.pt").exists()
    assert claim(**given)


def test_a_large_input_is_known_by_size_and_time(claimed, monkeypatch):
    folder, claim = claimed
    monkeypatch.setattr(resume, "READ_UP_TO", 2)
    assert not claim()
    assert claim()
    os.utime(folder / "in" / "tokens", ns=(1, 1))
    assert not claim()
