"""Several processes, other precisions: the losses and weights of one process in float32, checkpoints for any number.

Processes are started as a workflow starts them, by `python -m vlmlaw train`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vlmlaw.errors import UserError
from vlmlaw.settings import to_json
from vlmlaw.tokens.token_table import TokenTable
from vlmlaw.training import checkpoint, distributed
from vlmlaw.training.adapter import Adapter
from vlmlaw.training.cell import CONNECTOR, align_cell, build_vlm, train_cell
from vlmlaw.training.distributed import Machine, is_first_launched, join
from vlmlaw.training.interruption import Stopped
from vlmlaw.training.settings import CellSettings, ComputeSettings, LoraSettings, TrainingSettings
from vlmlaw.training.workspace import workspace_of

pytestmark = pytest.mark.slow

STEPS = 60
PLAN = TrainingSettings(
    steps=STEPS, batch_size=4, learning_rate=3e-3, new_learning_rate=1e-2, weight_decay=0.1, checkpoint_seconds=1e9
)
CELL = CellSettings(
    size="3k",
    n_visual_tokens=4,
    compressor="quecc",
    compressor_options={"n_heads": 4},
    seed=0,
    feature_layers=(1, 2),
    training=PLAN,
)


def inputs_of(small):
    return small.language_model, small.encoder, small.tokens["train"], small.features["train"]


def log_of(folder):
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(len(lines)))
    return [line["loss"] for line in lines], [line["gradient_norm"] for line in lines]


def weights_of(folder):
    """The weights that the loss depends on: a softmax cancels the bias of its keys, so Adam moves that one by noise."""
    weights = load_file(folder / "model" / "model.safetensors")
    queries, _, values = weights["compressor.clip_attn.in_proj_bias"].chunk(3)
    del weights["compressor.k_proj.3.bias"]  # that of the last LayerNorm before the keys is cancelled, too
    return weights | {"compressor.clip_attn.in_proj_bias": torch.cat([queries, values])}


def start(inputs, out, *, settings=CELL, checkpoint_seconds=1e9, **compute):
    names = ("--language-model", "--encoder", "--tokens", "--images")
    given = [part for pair in zip(names, map(str, inputs), strict=True) for part in pair]
    given += ["--settings", to_json(settings), "--compute", to_json(ComputeSettings(logs=(), **compute))]
    command = [sys.executable, "-m", "vlmlaw", "train", *given]
    command += ["--checkpoint-seconds", str(checkpoint_seconds), "--out", str(out)]
    source = str(Path(distributed.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def one(small, tmp_path_factory):
    """The cell by one process, uninterrupted."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("cells") / "one"
    train_cell(*inputs_of(small), out, settings=CELL)
    return out


def stop_after_a_checkpoint(process, workspace):
    """SIGTERM once it has written a checkpoint of its own; returns that one's folder."""
    before = set(workspace.glob("checkpoint-*/state.json"))
    until = time.monotonic() + 240
    while process.poll() is None and not set(workspace.glob("checkpoint-*/state.json")) - before:
        assert time.monotonic() < until, "no checkpoint after 4 minutes"
        time.sleep(0.02)
    process.terminate()
    _, said = process.communicate(timeout=240)
    assert process.returncode == distributed.EXIT_RUN_ME_AGAIN, said
    (folder,) = workspace.glob("checkpoint-*")
    return folder


def stop_here_after_a_checkpoint(small, out, monkeypatch):
    """The same of this process, whose libraries are loaded; returns the checkpoint's folder."""
    save = checkpoint.save

    def save_and_ask_to_stop(*args, **options):
        save(*args, **options)
        signal.raise_signal(signal.SIGTERM)

    soon = replace(CELL, training=replace(PLAN, checkpoint_seconds=1e-3))
    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(checkpoint, "save", save_and_ask_to_stop)
        train_cell(*inputs_of(small), out, settings=soon)
    (folder,) = workspace_of(out).glob("checkpoint-*")
    return folder


def test_two_processes_stopped_then_one_then_two_again_equal_one(small, one, tmp_path, monkeypatch):
    """Losses, gradient norms and weights; SIGTERM to the parent saves in both and ends with `run me again`."""
    out = tmp_path / "cell"
    workspace = workspace_of(out)
    by_two = stop_after_a_checkpoint(start(inputs_of(small), out, processes=2, checkpoint_seconds=1e-3), workspace)
    assert len(list(by_two.glob("*.distcp"))) == 2  # each wrote its part
    by_one = stop_here_after_a_checkpoint(small, out, monkeypatch)
    assert int(by_two.name.split("-")[1]) < int(by_one.name.split("-")[1]) < STEPS
    last = start(inputs_of(small), out, processes=2)
    _, said = last.communicate(timeout=240)
    assert last.returncode == 0, said
    assert "carrying on with the interrupted training" in said
    for found, expected in zip(log_of(out), log_of(one), strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert log_of(out)[0][:5] == pytest.approx(log_of(one)[0][:5], abs=1e-5)
    torch.testing.assert_close(weights_of(out), weights_of(one), atol=2e-3, rtol=1e-2)
    assert json.loads((out / "training.json").read_text())["n_processes"] == 2
    assert not workspace.exists()


def test_bfloat16_keeps_float32_masters(small, one, tmp_path):
    """In FSDP2 with one process: losses near float32's, weights that move by less than bfloat16 can show."""
    plan = replace(PLAN, dtype="bfloat16", steps=8, learning_rate=1e-5, new_learning_rate=1e-5)
    settings = replace(CELL, training=plan)
    train_cell(*inputs_of(small), tmp_path / "half", settings=settings)
    train_cell(
        *inputs_of(small), tmp_path / "full", settings=replace(settings, training=replace(plan, dtype="float32"))
    )
    half, full = (log_of(tmp_path / name)[0] for name in ("half", "full"))
    assert half == pytest.approx(full, rel=0.02) and half != full
    found, expected = weights_of(tmp_path / "half"), weights_of(tmp_path / "full")
    types = {(name.startswith("vision_tower."), tensor.dtype) for name, tensor in found.items()}
    assert types == {(True, torch.float32), (False, torch.bfloat16)} and set(found) == set(expected)
    for name, tensor in expected.items():
        # At most one step of bfloat16 apart: rounded once at the end, not at each update.
        torch.testing.assert_close(found[name].float(), tensor, rtol=2**-7, atol=1e-4)


def test_two_processes_on_dialogues_equal_one(stages, tmp_path):
    """Packed and padded, activations recomputed, the tower trained; with two records each, some see no image."""
    inputs = (stages.language_model, stages.encoder, stages.tokens["train"], stages.data["train"])
    plan = replace(PLAN, steps=6, vision_learning_rate=1e-3)
    settings = replace(CELL, fit="pad", place_embedding=False, compressor_options={}, training=plan)
    by_two = start(inputs, tmp_path / "two", settings=settings, processes=2, tokens_per_pass=1, recompute=True)
    train_cell(*inputs, tmp_path / "one", settings=settings, compute=ComputeSettings(layout="padded", logs=()))
    _, said = by_two.communicate(timeout=240)
    assert by_two.returncode == 0, said
    assert log_of(tmp_path / "two")[0] == pytest.approx(log_of(tmp_path / "one")[0], abs=1e-4)
    assert log_of(tmp_path / "two")[1] == pytest.approx(log_of(tmp_path / "one")[1], rel=1e-3)
    torch.testing.assert_close(weights_of(tmp_path / "two"), weights_of(tmp_path / "one"), atol=2e-3, rtol=1e-2)
    images = TokenTable.load(inputs[2]).image_rows
    assert 0 < (images < 0).sum() < len(images)
    account = json.loads((tmp_path / "two" / "training.json").read_text())
    assert account["fill"] == 1 and account["n_samples"] == 24


def test_of_several_processes_the_first_alone_loads_the_language_model(stages, tmp_path, monkeypatch):
    """The others have its shapes and types, adapters included, which `prepare` fills from the first."""
    plan = replace(PLAN, dtype="bfloat16", lora=LoraSettings(rank=2, alpha=4.0))
    settings = replace(CELL, place_embedding=False, compressor_options={}, training=plan)
    described = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        model = build_vlm(stages.language_model, stages.encoder, settings=settings)
        Adapter(model.language_model, plan.lora, folder=tmp_path, base="x", empty=not is_first_launched())
        tensors = dict(model.language_model.named_parameters()) | dict(model.language_model.named_buffers())
        assert {tensor.is_meta for tensor in tensors.values()} == {rank == "1"}
        described.append({name: (t.shape, t.dtype, t.requires_grad) for name, t in tensors.items()})
        words, head = model.language_model.get_input_embeddings(), model.language_model.get_output_embeddings()
        assert words.weight is head.weight
    assert described[0] == described[1] and len(described[0]) > 30


def test_stage_1_in_bfloat16_gathers_its_connector(stages, tmp_path):
    """The frozen language model lies in bfloat16, what is trained in float32."""
    inputs = (stages.language_model, stages.encoder, stages.tokens["align"], stages.data["align"])
    plan = replace(PLAN, steps=4, dtype="bfloat16")
    settings = replace(CELL, fit="pad", place_embedding=False, compressor_options={}, trains_language_model=False)
    losses = {}
    for dtype in ("float32", "bfloat16"):
        align_cell(*inputs, tmp_path / dtype, settings=replace(settings, training=replace(plan, dtype=dtype)))
        losses[dtype] = log_of(tmp_path / dtype)[0]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02) and losses["bfloat16"] != losses["float32"]
    found, expected = (load_file(tmp_path / dtype / CONNECTOR) for dtype in ("bfloat16", "float32"))
    assert set(found) == set(expected) and {tensor.dtype for tensor in found.values()} == {torch.float32}


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with (
        pytest.raises(UserError, match=r"compute.gpus is 2, but torch sees 0 GPUs here; set it to 0"),
        join(ComputeSettings(gpus=2)),
    ):
        pass


def test_one_process_alone_needs_no_group():
    with join(ComputeSettings()) as alone:
        assert alone == Machine(torch.device("cpu")) and alone.is_first
        assert alone.total([1.5, 2.0]) == [1.5, 2.0] and alone.any(True, False) == [True, False]
    assert not torch.distributed.is_initialized()


def test_a_process_that_fails_takes_the_others_with_it():
    """One raises where the others would wait for it for ever."""
    script = "import os, sys, time; sys.exit(3) if os.environ['RANK'] == '1' else time.sleep(600)"
    workers = [
        subprocess.Popen([sys.executable, "-c", script], env=os.environ | {"RANK": str(rank)}) for rank in range(3)
    ]
    assert distributed._status_of(workers) == 3
    assert [worker.poll() for worker in workers] == [-signal.SIGKILL, 3, -signal.SIGKILL]
