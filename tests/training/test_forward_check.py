"""A training reads its language model as the model's own class does, in a layout that is exact, or does not start."""

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, MambaConfig, MiniMaxConfig, MistralConfig, NemotronConfig, Qwen2Config

from vlmlaw.errors import UserError
from vlmlaw.tokens.token_table import PREFIX, TokenTable
from vlmlaw.training.batches import StepPasses
from vlmlaw.training.distributed import Machine
from vlmlaw.training.forward_check import check_forward, choose_layout
from vlmlaw.training.settings import ComputeSettings
from vlmlaw.vlm.image_inputs import ImageInputs

MACHINE = Machine(torch.device("cpu"))
TINY = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
    **{"intermediate_size": 48, "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
LLMS = {
    "qwen2": (Qwen2Config, {}, "packed", "shared"),
    "mistral": (MistralConfig, {"sliding_window": 4}, "packed", "shared"),
    "gemma2": (Gemma2Config, {"sliding_window": 4, "attn_logit_softcapping": 1.0}, "packed", "shared"),
    "nemotron": (NemotronConfig, {}, "padded", "shared"),  # packed rows leak
    "minimax": (MiniMaxConfig, {"num_local_experts": 4, "block_size": 8}, "padded", "padded"),  # so do shared prefixes
}


@pytest.fixture(scope="module")
def tables(small):
    """Questions that share a prefix, and the same conversations as dialogues."""
    shared = TokenTable.load(small.tokens["train"])
    return {"shared": shared, "dialogues": TokenTable(**vars(shared) | {"segments": np.full_like(shared.segments, 1)})}


def passes_of(vlm, table):
    patches = torch.randn(int(table.image_rows.max()) + 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return StepPasses(
        table,
        lambda rows: ImageInputs(patches=patches[torch.from_numpy(rows)]),
        batch_size=8,
        seed=0,
        n_visual_tokens=4,
        pad_id=0,
        reads_question=vlm.reads_question,
        compute=ComputeSettings(logs=()),
        machine=MACHINE,
    )


def make(make_vlm, words, name, **options):
    kind, more, *_ = LLMS[name]
    return make_vlm(text=kind(vocab_size=len(words), **TINY | more), **options).train()


@pytest.mark.parametrize("name", LLMS)
@pytest.mark.parametrize("kind", ["dialogues", "shared"])
def test_a_training_takes_a_layout_that_is_exact(make_vlm, words, tables, capsys, name, kind):
    vlm, table = make(make_vlm, words, name), tables[kind]
    passes = passes_of(vlm, table)
    preferred, expected = passes.layouts[0], LLMS[name][2 if kind == "dialogues" else 3]
    assert preferred == ("packed" if kind == "dialogues" else "shared")
    choose_layout(vlm, passes, what="a cell", machine=MACHINE)
    assert ("trained on padded rows" in capsys.readouterr().err) == (expected != preferred)
    assert passes.packed == (expected == "packed")
    check_forward(vlm, passes, what="a cell", machine=MACHINE, dtype=torch.float32)
    (one,) = passes(0)
    assert one.inputs["input_ids"].shape[0] == {"packed": 1, "shared": 8}.get(expected, len(one.inputs["input_ids"]))
    if kind == "shared" and expected == "padded":
        records = passes.records_to_check()
        n_questions = np.maximum.reduceat(table.segments, table.starts[:-1])
        assert len(passes.checked_and_alone()[0]["input_ids"]) == n_questions[records].sum() > len(records)
    loss = vlm.train()(**one.inputs, use_cache=False).loss
    loss.backward()
    assert torch.isfinite(loss)


def test_a_window_that_is_dropped_stops_a_training_with_the_numbers(make_vlm, words, tables, monkeypatch):
    vlm = make(make_vlm, words, "mistral")
    passes = passes_of(vlm, tables["dialogues"])
    check_forward(vlm, passes, what="a cell", machine=MACHINE, dtype=torch.float32)
    monkeypatch.setattr("vlmlaw.vlm.packed_attention.window_of", lambda *_: None)
    with pytest.raises(UserError, match=r"a cell: on 3 records the loss is .* MistralForCausalLM's own forward"):
        check_forward(vlm, passes, what="a cell", machine=MACHINE, dtype=torch.float32)
    choose_layout(vlm, passes, what="a cell", machine=MACHINE)
    assert not passes.packed
    check_forward(vlm, passes, what="a cell", machine=MACHINE, dtype=torch.float32)


def test_a_model_whose_replies_would_be_anothers_is_refused(make_vlm, words, tables):
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "vocab_size": len(words), "pad_token_id": 0}
    vlm = make_vlm(text=MambaConfig(**shape, bos_token_id=1, eos_token_id=2))
    with pytest.raises(
        UserError, match=r"MambaForCausalLM cannot be trained and asked exactly: .*generated: .*past_key_values"
    ):
        choose_layout(vlm, passes_of(vlm, tables["dialogues"]), what="a cell", machine=MACHINE)


def test_the_tables_have_what_the_tests_are_about(tables):
    assert (tables["shared"].segments == PREFIX).any() and tables["shared"].segments.max() > PREFIX + 1
