"""Jobs of `models:` against a server on loopback: replies, then times under load, judged together."""

import json

import pytest
from PIL import Image
from tests.evaluation.backends.server import Server, difficulty

from vlmlaw.errors import UserError
from vlmlaw.evaluation.measuring.job import (
    LOAD,
    REPLIES,
    AskSettings,
    Serving,
    ask_job,
    judge_job,
    load_job,
    read_asked,
)
from vlmlaw.experiment.catalogue import Catalogue
from vlmlaw.workflow.models_plan import ModelsPlan
from vlmlaw.workflow.stage import Read

N = 20
SERVING = Serving(load=(1, 4))
FILE = {
    "name": "pages",
    "models": {
        "small": {"endpoint": "http://127.0.0.1:1/v1", "model": "qwen2.5-vl-3B"},
        "large": {"checkpoint": "none/here"},
    },
    "grid": {"visual_tokens": [16, "max"]},
    "evaluation": {"benchmarks": [{"name": "pages", "questions": "pages/q.jsonl"}]},
    "asking": {"load": [1, 4]},
}


@pytest.fixture
def asked(tmp_path):
    rows = []
    for i in range(N):
        Image.new("RGB", (200, 200), (i, 90, 90)).save(tmp_path / f"{i}.png")
        rows.append({"id": str(i), "image": f"{i}.png", "question": f"Is it {i}?", "answer": "yes"})
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_asked(tmp_path / "q.jsonl", tmp_path, name="pages", metric="")


def test_a_cell_is_timed_under_each_load_after_its_replies(asked, tmp_path):
    server = Server(lambda model, text, v: "yes" if difficulty(text) < 0.5 else "no")
    settings = [
        AskSettings(name="small", kind="endpoint", place="small-1B", family="qwen2.5-vl", budget=budget)
        for budget in ("0", "16")
    ]
    folders, loads = [], []
    for own in settings:
        folders.append(tmp_path / "asked" / "pages" / f"small_v{own.budget}")
        ask_job(own, asked, serving=SERVING, endpoint=server.url, out=folders[-1] / REPLIES)
    assert server.most_at_once == 1  # times of the replies that count are those of one user
    n_before = server.n_requests
    for own in settings:
        loads.append(tmp_path / "loads" / "pages" / f"small_v{own.budget}" / LOAD)
        load_job(own, asked, serving=SERVING, endpoint=server.url, out=loads[-1])
    assert server.most_at_once == 4 and server.n_requests == n_before + 2 * 2 * 32
    measured = judge_job(asked, folders, speed={}, loads=loads)
    cells = [(load.cell, load.concurrency) for load in measured.loads]
    assert cells == [(f"small_v{budget}", n) for budget in (0, 16) for n in (1, 4)]
    table = measured.table.set_index("cell").requests_per_second
    for cell in table.index:
        assert table[cell] == max(load.requests_per_second for load in measured.loads if load.cell == cell)
    assert "requests_per_second" not in judge_job(asked, folders, speed={}).table
    # What was timed is not timed again, and a cell of which a question was refused is not timed.
    load_job(settings[1], asked, serving=SERVING, endpoint=server.url, out=loads[1])
    lines = (folders[1] / REPLIES).read_text().splitlines()
    refused = json.dumps({"id": json.loads(lines[0])["id"], "refused": "too long"})
    (folders[1] / REPLIES).write_text("\n".join([refused, *lines[1:]]))
    load_job(settings[1], asked, serving=SERVING, endpoint=server.url, out=loads[1])
    assert json.loads(loads[1].read_text()) == [] and server.n_requests == n_before + 2 * 2 * 32
    server.stop()


def test_only_models_of_servers_have_jobs_under_load():
    plan = ModelsPlan(FILE)
    judged = plan.stages["judge_models"]
    timed = [read.wildcards["model"] for read in judged.reads["loads"]({"benchmark": "pages"})]
    assert timed == ["small"] * 3 and "--loads {loads}" in judged.command
    one = Read("load_model", {"benchmark": "pages", "model": "small", "budget": "16"})
    assert "results/loads/pages/small_v16/load.json" in plan.files(one)
    assert "load_model" not in ModelsPlan(FILE | {"asking": {}}).stages
    with pytest.raises(UserError, match=r"asking.load: found \[1, 4\], and no model has an `endpoint`"):
        Catalogue.from_mapping(FILE | {"models": {"large": {"checkpoint": "none/here"}}})
