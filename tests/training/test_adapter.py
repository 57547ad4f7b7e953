"""LoRA: what is trained, what a finished cell holds, held against peft's own loading and merging of the adapter."""

import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from small_cell import small_cell
from vlmlaw.errors import UserError
from vlmlaw.settings import build
from vlmlaw.training import batches
from vlmlaw.training.adapter import Adapter
from vlmlaw.training.cell import train_cell
from vlmlaw.training.interruption import Stopped
from vlmlaw.training.settings import LoraSettings, TrainingSettings

LORA = LoraSettings(rank=4, alpha=8, dropout=0.1)
PLAN = TrainingSettings(steps=4, batch_size=4, learning_rate=1e-2, new_learning_rate=1e-2, lora=LORA)
CELL = small_cell(PLAN)
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def train(small, out, settings):
    inputs = small.language_model, small.encoder, small.tokens["train"], small.features["train"]
    train_cell(*inputs, out, settings=settings)
    return load_file(out / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def cell(small, tmp_path_factory):
    out = tmp_path_factory.mktemp("cells") / "lora"
    return out, train(small, out, CELL)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_finished_cell_is_what_peft_merges_of_the_adapter_beside_it(small, cell, tmp_path, dtype):
    out = cell[0]
    if dtype == "bfloat16":  # sharded, on one process
        out = tmp_path / "cell"
        train(small, out, replace(CELL, training=replace(PLAN, dtype=dtype)))
    base = AutoModelForCausalLM.from_pretrained(small.language_model, dtype=getattr(torch, dtype))
    by_peft = PeftModel.from_pretrained(base, out / "adapter").merge_and_unload().state_dict()
    vlm = AutoModelForImageTextToText.from_pretrained(out / "model", dtype=getattr(torch, dtype))
    ours = vlm.language_model.state_dict()
    assert ours.keys() == by_peft.keys()
    assert all(torch.equal(ours[name], weight) for name, weight in by_peft.items())
    config = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 8, 0.1)
    assert {name.rpartition(".")[2] for name in config["target_modules"]} == LINEAR


def test_linear_layers_alone_move_in_the_language_model(small, cell):
    before = AutoModelForCausalLM.from_pretrained(small.language_model).state_dict()
    moved = {n for n, w in before.items() if not torch.equal(w, cell[1].get(f"language_model.{n}", w))}
    expected = {name for name in before if name.split(".")[-2] in LINEAR and name.endswith("weight")}
    assert moved == expected
    losses = [json.loads(line)["loss"] for line in (cell[0] / "train.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]


def test_gradients_reach_adapter_and_connector_alone(make_vlm, tmp_path):
    model = make_vlm()
    model.vision_tower.requires_grad_(False)
    Adapter(model.language_model, LORA, folder=tmp_path, base="x")
    ids = torch.tensor([[model.config.image_token_id] * 4 + [5, 6, 7, 8]])
    model.train()(ids, pixel_values=torch.randn(1, 3, 32, 32), labels=ids.clone()).loss.backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {n for n in with_gradient if n.startswith("language_model.")} == {
        name for name, _ in model.named_parameters() if ".lora_" in name
    }
    assert {n.split(".")[0] for n in with_gradient} == {"language_model", "compressor", "projector"}


def test_stopped_and_resumed_is_the_same_bit_for_bit(small, cell, tmp_path, terminate_at_call):
    """Dropout draws, so the state of what draws is a part of the checkpoint; of the language model nothing is."""
    terminate_at_call(batches, "make_batch", 4)  # in the second step: two calls are the check's before a training
    with pytest.raises(Stopped):
        train(small, tmp_path / "cell", CELL)
    from torch.distributed.checkpoint import FileSystemReader

    (folder,) = (tmp_path / "cell.work").glob("checkpoint-*")
    names = FileSystemReader(folder).read_metadata().state_dict_metadata
    assert not [name for name in names if "language_model" in name and ".lora_" not in name]
    again = train(small, tmp_path / "cell", CELL)
    assert all(torch.equal(again[name], weight) for name, weight in cell[1].items())


def test_layers_that_are_not_there_are_named_with_those_that_are(make_vlm, tmp_path):
    lora = replace(LORA, target_modules=("query_key_value",))
    with pytest.raises(UserError, match=r"found query_key_value.*Qwen2ForCausalLM has the linear layers down_proj"):
        Adapter(make_vlm().language_model, lora, folder=tmp_path, base="x")


def test_settings_are_llavas_by_default_and_checked():
    assert build(LoraSettings, {}, where="lora") == LoraSettings(rank=128, alpha=256.0, dropout=0.05)
    for wrong in ({"rank": 0}, {"dropout": 1.0}, {"target_modules": []}, {"r": 8}):
        with pytest.raises(UserError, match="lora"):
            build(LoraSettings, wrong, where="lora")
