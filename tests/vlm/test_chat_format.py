"""A cell speaks transformers' chat format: in a pipeline, behind `transformers serve`, as lmms-eval's models ask."""

import base64
import functools
import http.server
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlmlaw.evaluation.benchmark import patches_reader
from vlmlaw.vlm.generate import Prompter, replies
from vlmlaw.vlm.image_source import picture
from vlmlaw.vlm.load import load_cell
from vlmlaw.vlm.processor import VlmProcessor

QUESTION, N_WORDS = "shape red", 4
CONVERSATION = (("system", "letter"), ("user", QUESTION), ("assistant", "disc"), ("user", "count c7"))


@pytest.fixture(scope="module")
def model(make_vlm, words, tmp_path_factory) -> Path:
    """A cell's model as a training saves it, of a compressor that reads the question."""
    folder: Path = tmp_path_factory.mktemp("cell") / "model"
    vlm = make_vlm(compressor="quecc", seed=3)
    vlm.save_pretrained(folder)
    VlmProcessor.of_model(vlm, words).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    path: Path = tmp_path_factory.mktemp("image") / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def reply(model, image):
    """What the cell says by our own way of asking, as in a benchmark."""
    vlm, words = load_cell(model)
    prompter = Prompter(words, n_visual_tokens=4, image_token_id=vlm.config.image_token_id)

    @functools.cache
    def said(question):
        options = {"stop_ids": prompter.stop_ids(), "pad_id": words.pad_token_id, "batch_size": 1}
        read = patches_reader(vlm, lambda path: np.asarray(picture(path)))
        ((_, ids),) = replies(vlm, [prompter(question, image)], patches_of=read, max_new_tokens=N_WORDS, **options)
        return words.decode(ids, skip_special_tokens=True).strip()

    return said


def asking(part, question=QUESTION):
    return [{"role": "user", "content": [part, {"type": "text", "text": question}]}]


def encoded(image):
    return base64.b64encode(image.read_bytes()).decode()


def test_a_pipeline_answers_as_a_benchmark_does(model, image, reply):
    from transformers import pipeline

    ask = pipeline("image-text-to-text", model=str(model), device="cpu")
    parts = (
        {"type": "image", "path": str(image)},
        {"type": "image", "image": Image.open(image)},
        {"type": "image", "url": f"data:image/png;base64,{encoded(image)}"},
        {"type": "image_url", "image_url": {"url": image.as_uri()}},
    )
    for part in parts:
        greedy = {"do_sample": False, "max_new_tokens": N_WORDS}
        (found,) = ask(text=asking(part), return_full_text=False, generate_kwargs=greedy)
        assert found["generated_text"].strip() == reply(QUESTION), part
    assert reply(QUESTION) != reply("count c7")  # else the test says little


def test_a_message_is_the_same_however_its_image_is_named(model, image):
    reader = _processor(model)
    served = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(image.parent))
    )
    threading.Thread(target=served.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{served.server_port}/{image.name}"
    pixels = np.asarray(Image.open(image))
    sources = (image, str(image), image.as_uri(), url, encoded(image), Image.open(image), pixels)
    options = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
    first, *others = (reader.apply_chat_template(asking({"type": "image", "image": s}), **options) for s in sources)
    served.shutdown()
    assert first["pixel_values"].shape == (1, 3, 32, 32)
    for other in others:
        assert other.keys() == first.keys()
        assert all(torch.equal(other[name], first[name]) for name in first)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no-such-file.png", "the image no-such-file.png is no file, no URL and no base64"),
        ("http://127.0.0.1:9/a.png", "the image http://127.0.0.1:9/a.png cannot be fetched"),
        (base64.b64encode(b"text").decode(), "cannot be decoded"),
        (7, "found an image of type int; expected a PIL image, an array, a path, a URL or base64"),
    ],
)
def test_what_is_no_image_is_named(source, message):
    with pytest.raises(ValueError, match=message):
        picture(source)


def test_several_conversations_turns_and_images_in_one_batch(model, image):
    reader = _processor(model)
    part = {"type": "image", "image": image}
    talk = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in CONVERSATION]
    talk[1]["content"].insert(0, part)
    talk[3]["content"][:0] = [part, part]
    options = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
    both = reader.apply_chat_template([talk, asking(part)], **options)
    assert both["input_ids"].shape[0] == 2 and both["pixel_values"].shape[0] == 4
    asked = [reader.decode(ids[mask]) for ids, mask in zip(both["question_ids"], both["question_mask"], strict=True)]
    assert asked == [QUESTION, "count c7", "count c7", QUESTION]
    alone = reader.apply_chat_template(asking(part), **options)
    n_alone = alone["input_ids"].shape[1]
    assert both["input_ids"][1, -n_alone:].tolist() == alone["input_ids"][0].tolist()
    assert both["attention_mask"][1].tolist() == [0] * (both["input_ids"].shape[1] - n_alone) + [1] * n_alone


def test_lmms_evals_chat_models_get_the_same_replies(model, image, reply):
    """The calls of its model `huggingface`: Auto classes, text by the template, a padded batch, generate, decode."""
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

    config = AutoConfig.from_pretrained(model)
    assert config.model_type in [known.model_type for known in AutoModelForImageTextToText._model_mapping]
    vlm = AutoModelForImageTextToText.from_pretrained(model).eval()
    processor, tokenizer = AutoProcessor.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    questions, picture_of = (QUESTION, "count c7 c8 pet"), Image.open(image)
    texts = [
        processor.apply_chat_template(
            asking({"type": "image", "image": picture_of}, question), tokenize=False, add_generation_prompt=True
        )
        for question in questions
    ]
    given = {"images": [picture_of] * 2, "videos": [], "audios": []}
    inputs = processor(text=texts, padding=True, padding_side="left", return_tensors="pt", **given)
    made = vlm.generate(
        **inputs, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=N_WORDS
    )
    own = [after[len(before) :] for before, after in zip(inputs.input_ids, made, strict=True)]
    found = processor.batch_decode(own, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert [text.strip() for text in found] == [reply(question) for question in questions]
    with pytest.raises(ValueError, match="found videos; a cell reads images"):
        processor(text=texts, images=given["images"], videos=["a.mp4"])


def _processor(model):
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(model)


@pytest.mark.slow
def test_transformers_serve_answers_as_a_benchmark_does(model, image, reply, tmp_path):
    """A process of its own that has never heard of us but by the cell's folder."""
    for package in ("fastapi", "uvicorn", "openai", "accelerate"):
        pytest.importorskip(package, reason="`transformers serve` needs the extra `serve`")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", "--trust-remote-code", "--device", "cpu"]
    log = tmp_path / "serve.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [*map(str, command), "--host", "127.0.0.1", "--port", str(port), str(model)],
            stdout=out,
            stderr=out,
            env=os.environ | {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
        )
    try:
        part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(image)}"}}
        body = {"model": str(model), "messages": asking(part), "max_tokens": N_WORDS, "temperature": 0}
        answer = _ask_server(f"http://127.0.0.1:{port}", body, server, log)
    finally:
        server.terminate()
        server.wait(timeout=30)
    assert answer["choices"][0]["message"]["content"].strip() == reply(QUESTION)


def _ask_server(address, body, server, log):
    """The reply to a request, once the server is up."""
    deadline = time.monotonic() + 240
    while True:
        assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                break
        except OSError:
            time.sleep(0.5)
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.load(io.TextIOWrapper(reply))
    except OSError as error:
        raise AssertionError(log.read_text()[-3000:]) from error
