"""Who sees whom is the same whatever computes attention, or is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from vlmlaw.errors import UserError
from vlmlaw.tokens.packing import make_batch, tensors
from vlmlaw.tokens.token_table import TokenTable
from vlmlaw.training.distributed import Machine
from vlmlaw.training.language_model import answer_loss
from vlmlaw.training.settings import ComputeSettings
from vlmlaw.training.sharding import prepare
from vlmlaw.vlm import loss as head
from vlmlaw.vlm import packed_attention
from vlmlaw.vlm.loss import prediction_loss
from vlmlaw.vlm.packed_attention import PACKED, fitting_mask


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


@pytest.mark.parametrize("takes_groups", [packed_attention.TAKES_GROUPS, False])
def test_the_kernel_of_gpus_is_called_as_this_torch_has_it(monkeypatch, takes_groups):
    """As far as shapes and arguments go: on tensors without content, which torch has on every machine."""
    monkeypatch.setattr(packed_attention, "TAKES_GROUPS", takes_groups)
    q, k, v = (torch.empty(10, heads, 8, dtype=torch.bfloat16, device="meta") for heads in (4, 2, 2))
    starts = torch.tensor([0, 4, 10], dtype=torch.int32, device="meta")
    assert packed_attention._variable_length(q, k, v, starts, 6, 0.3).shape == q.shape


def one_attention_for_all(q, k, v, starts, scaling):
    """In place of a call for each document, whose number a compiler cannot see: what a GPU's one kernel is to it."""
    query, key, value = (
        part.repeat_interleave(q.shape[1] // part.shape[1], 1).transpose(0, 1)[None] for part in (q, k, v)
    )
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)[0].transpose(0, 1)


@pytest.mark.parametrize("recompute", [False, True])
def test_all_layers_compile_to_one_graph_whatever_is_packed(make_vlm, monkeypatch, recompute):
    """Neither a layer nor another packing compiles anew, nothing of a layer is left uncompiled."""
    from torch._dynamo import reset
    from torch._dynamo.utils import counters

    compile_whole = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **given: compile_whole(self, backend="eager", **given))
    monkeypatch.setattr(packed_attention, "_document_by_document", one_attention_for_all)
    shape = {"hidden_size": 16, "num_hidden_layers": 10, "num_attention_heads": 2, "intermediate_size": 24}
    vlm = make_vlm(text=Qwen2Config(vocab_size=60, num_key_value_heads=1, **shape), compressor="average").train()
    reset()
    counters.clear()
    compute = ComputeSettings(compile=True, recompute=recompute, logs=())
    prepare(vlm, machine=Machine(torch.device("cpu")), compute=compute)
    for lengths in (
        [9, 8],
        [8, 11, 5],
        [6, 6, 6, 6],
    ):  # not as many tokens as the width: that would be taken for one size
        ids = torch.full((1, sum(lengths)), 7)
        targets = torch.where(torch.arange(ids.shape[1]) % 3 == 0, ids, -100)
        vlm(
            input_ids=ids,
            targets=targets,
            position_ids=torch.cat([torch.arange(n) for n in lengths])[None],
            cu_seq_lens_q=torch.tensor([0, *lengths]).cumsum(0).int(),
            max_length_q=max(lengths),
            use_cache=False,
        ).loss.backward()
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
