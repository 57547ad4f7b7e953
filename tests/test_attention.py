"""Who sees whom is the same whatever computes attention, or is refused."""

import pytest
import torch
import torch.nn.functional as F
from transformers import Qwen2Config, Qwen2ForCausalLM

from vlmlaw import head
from vlmlaw.attention import PACKED, fitting_mask
from vlmlaw.batches import tensors
from vlmlaw.errors import UserError
from vlmlaw.head import prediction_loss
from vlmlaw.language_model import answer_loss
from vlmlaw.packing import TokenTable, make_batch

pytest_plugins = ["science_fixtures"]


@pytest.fixture(scope="module")
def model(words):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = Qwen2Config(vocab_size=len(words), num_key_value_heads=1, initializer_range=0.3, **shape)
    return Qwen2ForCausalLM(config).eval()


@pytest.fixture
def batch(small):
    table = TokenTable.load(small.tokens["text"])
    return tensors(make_batch(table, [0, 1, 2], n_visual_tokens=1, pad_id=0))


@torch.no_grad()
def test_the_loss_is_the_same_with_every_attention(model, batch):
    losses = {}
    for name in ("sdpa", "eager", PACKED):
        model.set_attn_implementation(name)
        losses[name] = answer_loss(model, dict(batch)).item()
    seen = batch["attention_mask"]
    model.set_attn_implementation("sdpa")
    blind = answer_loss(model, batch | {"attention_mask": torch.ones_like(seen).tril()}).item()
    assert losses["eager"] == pytest.approx(losses["sdpa"], abs=1e-5) == losses[PACKED]
    assert abs(blind - losses["sdpa"]) > 1e-3  # the mask matters here


def test_flex_attention_gets_a_mask_to_add(batch):
    mask = fitting_mask(batch["attention_mask"], "flex_attention", torch.float32)
    assert mask.dtype == torch.float32
    assert torch.equal(mask == 0, batch["attention_mask"])


def test_flash_attention_is_refused(batch):
    with pytest.raises(
        UserError, match=r"'flash_attention_2' takes no mask of who sees whom.*attn_implementation='sdpa'"
    ):
        fitting_mask(batch["attention_mask"], "flash_attention_2", torch.float32)
    padding = torch.ones(2, 3)
    assert fitting_mask(padding, "flash_attention_2", torch.float32) is padding


@torch.no_grad()
def test_padded_rows_keep_their_mask_under_packed_attention(model):
    """Questions that a compressor reads are padded rows of the same model."""
    ids = torch.tensor([[5, 6, 7, 0, 0], [5, 6, 7, 8, 9]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    shown = []
    for name in ("eager", PACKED):
        model.set_attn_implementation(name)
        shown.append(model(input_ids=ids, attention_mask=mask).logits[mask.bool()])
    torch.testing.assert_close(shown[0], shown[1], atol=1e-5, rtol=1e-5)


def test_logits_in_parts_give_the_same_loss_and_gradients(monkeypatch):
    torch.manual_seed(0)
    hidden, targets = torch.randn(37, 8, requires_grad=True), torch.randint(0, 50, (37,))
    layer = torch.nn.Linear(8, 50, bias=False)
    expected = F.cross_entropy(layer(hidden), targets)
    gradients = torch.autograd.grad(expected, [hidden, layer.weight])
    loss, logits = prediction_loss(layer, hidden, targets)
    assert torch.equal(loss, expected) and torch.equal(logits, layer(hidden))
    monkeypatch.setattr(head, "LOGITS_AT_ONCE", 50 * 10)
    in_parts, none = prediction_loss(layer, hidden, targets)
    assert none is None
    torch.testing.assert_close(in_parts, expected)
    torch.testing.assert_close(torch.autograd.grad(in_parts, [hidden, layer.weight]), gradients)
    with torch.no_grad():
        assert prediction_loss(layer, hidden, targets)[1].shape == (37, 50)  # who asks for logits gets them
