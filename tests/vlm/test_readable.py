"""What a language model cannot read is refused before a step, with the record and the file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, GPT2Config

from vlmlaw.compressors import COMPRESSORS
from vlmlaw.errors import UserError
from vlmlaw.tokens.packing import make_batch
from vlmlaw.tokens.token_table import TokenTable
from vlmlaw.vlm.readable import n_places, require_readable

SOURCE = Path("tokens/train.npz")


@pytest.fixture(scope="module")
def table(small):
    return TokenTable.load(small.tokens["train"])


def gpt2(words, n_positions=64, vocab_size=None):
    shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "intermediate_size": 16, "pad_token_id": 0}
    return GPT2Config(vocab_size=vocab_size or len(words), n_positions=n_positions, **shape)


def test_places_are_the_positions_of_a_batch(table, words):
    for reads_question in (False, True):
        batch = make_batch(table, range(len(table)), n_visual_tokens=9, pad_id=0, reads_question=reads_question)
        most = np.zeros(len(table))
        np.maximum.at(most, batch.records, batch.position_ids.max(axis=1) + 1)
        np.testing.assert_array_equal(n_places(table, 9), most)


def test_a_record_one_place_too_long_is_named(make_vlm, table, words):
    """GPT-2 has a learned embedding of so many places: one more, and its own forward fails."""
    longest = int(n_places(table, 4).max())
    for n_positions, fits in ((longest, True), (longest - 1, False)):
        vlm = make_vlm(text=gpt2(words, n_positions))
        ids = torch.zeros(1, longest, dtype=torch.long)
        if fits:
            require_readable(vlm, table, words, source=SOURCE)
            vlm.language_model(ids)
            continue
        with pytest.raises(IndexError):
            vlm.language_model(ids)
        with pytest.raises(UserError, match=rf"record \d+ of {SOURCE}, which begins '.*<image>.*takes {longest} pos"):
            require_readable(vlm, table, words, source=SOURCE)


def test_a_token_beyond_the_embedding_is_named(make_vlm, table, words):
    ids = table.ids.copy()
    place = table.starts[5] - 1
    ids[place] = len(words) + 3
    vlm = make_vlm(text=gpt2(words, 512))
    require_readable(vlm, table, words, source=SOURCE)
    message = (
        rf"record 5 of {SOURCE}, which begins .* holds the token .*\({len(words) + 3}\), and GPT2LMHeadModel embeds"
    )
    for spoilt in (replace(table, ids=ids), replace(table, targets=ids)):
        with pytest.raises(UserError, match=message):
            require_readable(vlm, spoilt, words, source=SOURCE)
    with pytest.raises(UserError, match=r"a question of .* holds token"):
        require_readable(vlm, replace(table, question_ids=ids), words, source=SOURCE)
    short = make_vlm(text=gpt2(words, 512, vocab_size=words.pad_token_id or 1))
    with pytest.raises(UserError, match="embeds"):
        require_readable(short, table, words, source=SOURCE)


@pytest.mark.parametrize("name", sorted(COMPRESSORS))
def test_texts_beside_a_frozen_language_model_have_a_gradient_of_zero(make_vlm, words, name):
    """So that a step of stage 1 without an image neither fails nor changes what other steps learned."""
    tower = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    n_tokens = COMPRESSORS[name].allowed_tokens(4)[-1]
    options = {"feature_layers": [1, 2], "position_embedding": True}
    vlm = make_vlm(vision=tower, compressor=name, n_visual_tokens=n_tokens, **options).train()
    vlm.language_model.requires_grad_(False)
    ids = torch.tensor([[5, 6, 7]])
    loss = vlm(ids, labels=ids, use_cache=False).loss
    loss.backward()
    gradients = [p.grad for part in vlm.connector.values() for p in part.parameters()]
    assert all(one is None or not one.any() for one in gradients) and any(one is not None for one in gradients)
