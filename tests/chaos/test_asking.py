"""A job that asks a server, killed at random moments and started again: nothing is lost or asked again once it is kept.

A question that is on its way when its process is killed has to be asked again, so what is counted is the questions
whose reply was in the journal. `make test-chaos` does it a hundred times; without it, a few times.
"""

import json
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.evaluation.backends.server import Server

from vlmlaw.cli.main import main
from vlmlaw.evaluation.measuring.job import JOURNAL, AskSettings
from vlmlaw.settings import to_json

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("VLMLAW_CHAOS") or 3)
N_QUESTIONS, AT_A_TIME = 60, 3
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["vlmlaw.evaluation.measuring.job", "vlmlaw.evaluation.backends.endpoint"])


def run(words):
    """Run the verb in this process, which ends with its status."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    sys.exit(main(words))


def start(words):
    process = PROCESSES.Process(target=run, args=(words,))
    process.start()
    return process


@pytest.fixture
def server():
    server = Server(lambda model, text, v: f"{text.split()[3]} of {v}")
    server.fail = lambda number: time.sleep(0.01)
    yield server
    server.stop()


@pytest.fixture
def words(server, tmp_path):
    """The command line of the job, but for the file it writes, which is its last word."""
    for i in range(2):
        Image.fromarray(np.full((56, 56, 3), 255 * i, np.uint8)).save(tmp_path / f"{i}.png")
    rows = [
        {"id": str(i), "image": f"{i % 2}.png", "question": f"What is number {i} ?", "answer": "a"}
        for i in range(N_QUESTIONS)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = AskSettings(name="small", kind="endpoint", place="small-1B", family="qwen2.5-vl", budget="max")
    asked = ["--questions", tmp_path / "q.jsonl", "--images", tmp_path, "--benchmark", "q"]
    asked += ["--settings", to_json(own), "--serving", json.dumps({"concurrency": AT_A_TIME})]
    return [*map(str, ["models", "ask", *asked, "--endpoint", server.url, "--out"])]


def said(out):
    rows = map(json.loads, out.read_text().splitlines())
    return {row["id"]: (row["text"], row["n_prompt_tokens"]) for row in rows}


def kept(out):
    """The ids of whole lines of the journal."""
    path = out.with_name(JOURNAL)
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    return {json.loads(line)["id"] for line in lines if line.endswith(b"\n")}


def test_what_was_answered_is_neither_lost_nor_asked_again(server, words, tmp_path):
    def times_asked():
        with server.lock:
            return Counter({text.split()[3]: n for (_, text, _), n in server.asked.items()})

    whole = tmp_path / "asked" / "q" / "whole_vmax" / "replies.jsonl"
    for folder in (whole.parents[1] / "first_vmax", whole.parent):  # with the first one the server of processes starts
        server.asked.clear()
        began = time.monotonic()
        untouched = start([*words, str(folder / "replies.jsonl")])
        untouched.join()
        assert untouched.exitcode == 0
    took, truth = time.monotonic() - began, said(whole)
    assert len(truth) == N_QUESTIONS and set(times_asked().values()) == {1}

    chance, kills, finished, again, on_their_way = random.Random(0), 0, 0, 0, 0
    while kills < KILLS:
        out = whole.parents[1] / f"{finished}_vmax" / "replies.jsonl"
        server.asked.clear()
        before, own_kills = Counter(), 0
        while True:
            job = start([*words, str(out)])
            job.join(chance.uniform(0, 1.2 * took))
            over = job.exitcode is not None
            if not over:
                job.kill()
                job.join()
                own_kills += 1
                time.sleep(0.05)  # the server ends what it was saying
            now = times_asked()
            again += sum(now[name] > n for name, n in before.items())
            if over:
                assert job.exitcode == 0
                break
            assert not out.exists() or said(out) == truth
            before = Counter({name: now[name] for name in kept(out)})
        lines = [json.loads(line) for line in out.with_name(JOURNAL).read_text().splitlines()]
        assert said(out) == truth and len(lines) == len({line["key"] for line in lines}) == N_QUESTIONS
        extra = sum(times_asked().values()) - N_QUESTIONS
        assert extra <= own_kills * AT_A_TIME
        on_their_way, kills, finished = on_their_way + extra, kills + own_kills, finished + 1
    assert again == 0
    print(
        f"\n{kills} kills, {finished} jobs ended with all replies; asked once more: {on_their_way} questions that were "
        f"on their way at a kill, {again} whose reply was kept"
    )
