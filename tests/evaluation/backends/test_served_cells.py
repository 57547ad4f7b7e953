"""Trained cells behind a real server, `transformers serve`: the replies through HTTP are the evaluator's own."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vlmlaw.cli.main import main
from vlmlaw.evaluation.backends.serve import NEEDED

missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing), reason=f"transformers[serving] lacks {missing}")]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    (folder / "hub").mkdir()
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder / "hub")}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", "vlmlaw", "serve", "--port", str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        for _ in range(600):
            if "running on" in (folder / "log").read_text():
                break
            assert server.poll() is None, (folder / "log").read_text()[-2000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()


def test_replies_through_http_are_the_evaluators(url, cell, make_vlm, words, tmp_path):
    from transformers import AutoModelForImageTextToText

    from vlmlaw.vlm.processor import VlmProcessor

    VlmProcessor.of_model(AutoModelForImageTextToText.from_pretrained(cell / "model"), words).save_pretrained(
        cell / "model"
    )
    rng, rows = np.random.default_rng(0), []
    for i in range(8):
        Image.fromarray(rng.integers(0, 255, (48, 40, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        asked = [("shape red", "circle"), ("owner", "ada")]
        rows += [{"id": f"{i}-{j}", "image": f"{i}.png", "question": q, "answer": a} for j, (q, a) in enumerate(asked)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = [str(tmp_path / "q.jsonl"), "--metric", "exact_match", "--instruction", "", "--max-new-tokens", "4"]
    assert main(["measure", *common, "--cell", str(cell), "--out", str(tmp_path / "direct")]) == 0
    served = ["--endpoint", url, "--model", str(cell / "model"), "--out", str(tmp_path / "http")]
    assert main(["measure", *common, *served]) == 0
    columns = ["question", "budget", "said", "lost", "n_visual_tokens", "n_text_tokens", "n_generated_tokens"]
    direct, http = (
        pd.read_csv(tmp_path / name / "questions.csv", keep_default_na=False)[columns] for name in ("direct", "http")
    )
    pd.testing.assert_frame_equal(direct, http)
    assert direct.said.nunique() > 2
