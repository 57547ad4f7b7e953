"""Trainings that are killed at random moments, resumed, and killed again: they end as one that nobody touched.

`make test-chaos` does it a hundred times; without it, a few times. Each training is a process of its own that runs the
verb as a rule calls it. A server that has imported torch, and has no threads yet, forks them: a fork of pytest's own
process hangs where torch's threads held a lock. Prints how many kills came when.
"""

import hashlib
import json
import multiprocessing
import os
import random
import sys
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from small_cell import small_cell
from vlmlaw.cli.main import main
from vlmlaw.runtime.whole_files import sha256_of
from vlmlaw.runtime.workspace import workspace_of
from vlmlaw.settings import to_json
from vlmlaw.training.settings import CellSettings, TrainingSettings
from vlmlaw.workflow import records

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("VLMLAW_CHAOS") or 3)
STEPS = 150
PLAN = TrainingSettings(
    steps=STEPS, batch_size=4, learning_rate=3e-3, new_learning_rate=1e-2, weight_decay=0.1, checkpoint_seconds=0.02
)
CELL = small_cell(PLAN)


def arguments(verb: str, folders, tokens: Path, images: Path, out: Path, settings: CellSettings) -> list[str]:
    """The command line of a training, as a rule of the workflow has it."""
    words = ["--record", str(out / "training.record.json"), "--code", "c", "--upstream", "u", verb]
    inputs = {"language-model": folders.language_model, "encoder": folders.encoder, "tokens": tokens, "images": images}
    words += [word for name, path in inputs.items() for word in (f"--{name}", str(path))]
    return [*words, "--settings", to_json(settings), "--checkpoint-seconds", "0.02", "--out", str(out)]


PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["vlmlaw.cli.main", "vlmlaw.training.cell"])


def run(words: list[str], log: Path) -> None:
    """Run the verb in this process, which ends with its status."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(main(words))


def start(words: list[str], log: Path) -> BaseProcess:
    """Run the verb in a process of its own."""
    process = PROCESSES.Process(target=run, args=(words, log))
    process.start()
    return process


def made(out: Path) -> tuple[str, list[float]]:
    """Its weights and losses."""
    weights = sorted(out.rglob("*.safetensors"))
    losses = [json.loads(line)["loss"] for line in (out / "train.jsonl").read_text().splitlines()]
    return hashlib.sha256(b"".join(path.read_bytes() for path in weights)).hexdigest(), losses


def require_nothing_half_made(out: Path) -> bool:
    """What a reader would take for whole is whole; returns whether the training had a checkpoint to go on from."""
    record = records.read(out / "training.record.json")
    for name in record["files"] if record else ():
        assert sha256_of(out / name) == record["files"][name]["sha256"], name
    for path in (out / "training.json", *workspace_of(out).glob("checkpoint-*/state.json")):
        if path.exists():
            json.loads(path.read_text())
    return any(workspace_of(out).glob("checkpoint-*/state.json"))


@pytest.mark.parametrize("cell", ["miniature", "released"])
def test_killed_again_and_again_it_ends_as_one_that_nobody_touched(cell, request, tmp_path):
    if cell == "released" and not os.environ.get("VLMLAW_CHAOS"):
        pytest.skip("only `make test-chaos` makes its models and data")
    if cell == "released":
        folders = request.getfixturevalue("stages")
        tokens, images, settings = folders.tokens["train"], folders.data["train"], replace(CELL, size="10k", fit="pad")
        settings = replace(settings, place_embedding=False, feature_layers=(1,))
    else:
        folders = request.getfixturevalue("small")
        tokens, images, settings = folders.tokens["train"], folders.features["train"], CELL
    log, chance = tmp_path / "log", random.Random(0)
    began = time.monotonic()
    training = start(arguments("train", folders, tokens, images, tmp_path / "whole" / "cell", settings), log)
    training.join()
    assert training.exitcode == 0, log.read_text()[-3000:]
    took, truth = time.monotonic() - began, made(tmp_path / "whole" / "cell")
    kills, resumed, finished = 0, 0, 0
    while kills < KILLS:
        out = tmp_path / str(finished) / "cell"
        words = arguments("train", folders, tokens, images, out, settings)
        while True:
            training = start(words, log)
            training.join(chance.uniform(0, 1.2 * took))
            if training.exitcode is not None:
                assert training.exitcode == 0, log.read_text()[-3000:]
                require_nothing_half_made(out)
                break
            training.kill()
            training.join()
            kills += 1
            resumed += require_nothing_half_made(out)
        assert made(out) == truth and not workspace_of(out).exists()
        finished += 1
    text = log.read_text()
    assert "Traceback" not in text
    assert "carrying on with" in text or KILLS < 10
    print(f"\n{cell}: {kills} kills, {resumed} with a checkpoint to go on from, {finished} trainings ended, all alike")
