"""Visual tokens that share one span of positions: the same numbers in every layout, at any V."""

import pytest
import torch

from vlmlaw.vlm.model import IGNORE_INDEX, VlmForConditionalGeneration
from vlmlaw.vlm.positions import spanned_positions

SPAN = 4.0


@pytest.fixture
def spanned(make_vlm) -> VlmForConditionalGeneration:
    vlm = make_vlm(compressor="average_elastic", n_visual_tokens=16)
    vlm.config.visual_span = SPAN
    return vlm.eval()


def asked(vlm, n_visual: int, *, n_text: int = 3) -> dict:
    image = torch.full((1, n_visual), vlm.config.image_token_id)
    text = torch.arange(5, 5 + n_text)[None]
    side = vlm.compressor.grid_side
    patches = torch.randn(1, side**2, vlm.compressor.width, generator=torch.Generator().manual_seed(0))
    return {"input_ids": torch.cat([image, text], dim=1), "patches": patches, "n_visual_tokens": n_visual}


def test_the_question_stands_where_it_does_whatever_v_is():
    for n_visual in (1, 4, 9, 36):
        is_image = torch.tensor([[False] + [True] * n_visual + [False] * 3])
        found = spanned_positions(None, is_image, span=SPAN, n_visual_tokens=n_visual)[0]
        assert found[0] == 0 and found[1] == 1
        torch.testing.assert_close(found[-3:], torch.tensor([5.0, 6.0, 7.0]))
        torch.testing.assert_close(found[1:-3].diff(), torch.full((n_visual - 1,), SPAN / n_visual))


def test_documents_of_a_packed_row_are_counted_each():
    bounds = torch.tensor([0, 3, 7])
    is_image = torch.tensor([[True, True, False, True, True, False, False]])
    consecutive = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    found = spanned_positions(consecutive, is_image, span=1, n_visual_tokens=2, cu_seq_lens=bounds)
    assert found.tolist() == [[0, 0.5, 1, 0, 0.5, 1, 2]]


@torch.no_grad()
def test_with_a_span_of_v_it_is_the_usual_model(spanned):
    given = asked(spanned, 4)
    with_span = spanned(**given).logits
    spanned.config.visual_span = None
    torch.testing.assert_close(with_span, spanned(**given).logits)
    spanned.config.visual_span = 9.0
    assert (spanned(**given).logits - with_span).abs().max() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("n_visual", [1, 4, 9])
def test_generation_with_a_cache_sees_the_positions_of_the_whole(spanned, n_visual):
    given = asked(spanned, n_visual, n_text=6)
    whole = spanned(**given, use_cache=False).logits[:, -3:]
    first = {**given, "input_ids": given["input_ids"][:, :-2]}
    out = spanned(**first, use_cache=True)
    steps = [out.logits[:, -1]]
    for place in (-2, -1):
        token = given["input_ids"][:, place, None]
        out = spanned(input_ids=token, past_key_values=out.past_key_values, use_cache=True, n_visual_tokens=n_visual)
        steps.append(out.logits[:, -1])
    torch.testing.assert_close(torch.stack(steps, dim=1), whole, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_several_tokens_behind_a_cached_image_stand_one_behind_the_other(spanned):
    """As in a dialogue that goes on: the next turn is read at once, by a caller who gives no mask."""
    given = asked(spanned, 9, n_text=6)
    whole = spanned(**given, use_cache=False).logits[:, -3:]
    out = spanned(**{**given, "input_ids": given["input_ids"][:, :-3]}, use_cache=True)
    turn = {"input_ids": given["input_ids"][:, -3:], "n_visual_tokens": 9}
    found = spanned(**turn, past_key_values=out.past_key_values, use_cache=True).logits
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)


def test_positions_are_made_on_the_device_of_the_tokens():
    is_image = torch.tensor([[True, True, False]], device="meta")
    assert spanned_positions(None, is_image, span=SPAN, n_visual_tokens=2).device.type == "meta"


@torch.no_grad()
def test_rows_padded_on_the_left_and_packed_rows_give_the_same(spanned):
    given = asked(spanned, 9)
    alone = spanned(**given).logits[0, -3:]
    padded = {**given, "input_ids": torch.cat([torch.zeros(1, 2, dtype=torch.long), given["input_ids"]], dim=1)}
    mask = torch.tensor([[0, 0] + [1] * given["input_ids"].shape[1]])
    torch.testing.assert_close(spanned(**padded, attention_mask=mask).logits[0, -3:], alone, rtol=1e-4, atol=1e-5)
    n_tokens = given["input_ids"].shape[1]
    row = {
        "input_ids": given["input_ids"].repeat(1, 2),
        "patches": given["patches"].repeat(2, 1, 1),
        "n_visual_tokens": 9,
        "position_ids": torch.arange(n_tokens).repeat(2)[None],
        "cu_seq_lens_q": torch.tensor([0, n_tokens, 2 * n_tokens], dtype=torch.int32),
        "max_length_q": n_tokens,
    }
    torch.testing.assert_close(spanned(**row).logits[0, -3:], alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_reference_of_a_training_reads_the_same_positions(spanned):
    """The language model's own forward, which a training is held against before its first step."""
    given = asked(spanned, 9)
    targets = torch.full_like(given["input_ids"], IGNORE_INDEX)
    targets[0, -1] = 5
    mask = torch.ones_like(given["input_ids"])
    found = spanned(**given, targets=targets, attention_mask=mask, use_cache=False).logits
    own = spanned(**given, targets=targets, attention_mask=mask, use_cache=False, by_own_forward=True).logits
    torch.testing.assert_close(own, found, rtol=1e-4, atol=1e-5)
    spanned.config.visual_span = None
    plain = spanned(**given, targets=targets, attention_mask=mask, use_cache=False, by_own_forward=True).logits
    assert (plain - own).abs().max() > 1e-5


def test_embeddings_alone_do_not_say_where_the_image_is(spanned):
    embeddings = torch.zeros(1, 3, spanned.config.text_config.hidden_size)
    with pytest.raises(ValueError, match="input_ids"):
        spanned(inputs_embeds=embeddings, targets=torch.full((1, 3), IGNORE_INDEX))
