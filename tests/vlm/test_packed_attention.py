"""Who sees whom is the same whatever computes attention, or is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from vlmlaw.tokens.packing import make_batch, tensors
from vlmlaw.tokens.token_table import TokenTable
from vlmlaw.training.distributed import Machine
from vlmlaw.training.language_model import answer_loss
from vlmlaw.training.settings import ComputeSettings
from vlmlaw.training.sharding import prepare
from vlmlaw.vlm import loss as head
from vlmlaw.vlm import packed_attention as module
from vlmlaw.vlm.loss import prediction_loss
from vlmlaw.vlm.masks import AttentionRefused
from vlmlaw.vlm.own_forward import own_logits, read
from vlmlaw.vlm.packed_attention import PACKED, Scores, attend, packed_attention


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
    blind = answer_loss(model, batch | {"attention_mask": torch.ones_like(seen).tril()}).item()
    model.set_attn_implementation("sdpa")
    assert losses["eager"] == pytest.approx(losses["sdpa"], abs=1e-5) == losses[PACKED]
    assert abs(blind - losses["sdpa"]) > 1e-3  # the mask matters here


def test_questions_that_share_a_prefix_are_refused_where_attention_is_not_ours(model, batch):
    model.set_attn_implementation("sdpa")
    model.config._attn_implementation_internal = "flash_attention_2"
    try:
        with pytest.raises(AttentionRefused, match="computes attention by flash_attention_2 only"):
            answer_loss(model, dict(batch))
    finally:
        model.config._attn_implementation_internal = "sdpa"


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


def test_logits_in_parts_give_the_same_loss_and_gradients(model, monkeypatch):
    torch.manual_seed(0)
    weight = model.get_output_embeddings().weight
    hidden, targets = torch.randn(37, 16, requires_grad=True), torch.randint(0, len(weight), (37,))
    expected = F.cross_entropy(hidden @ weight.T, targets)
    gradients = torch.autograd.grad(expected, [hidden, weight])
    loss, logits = prediction_loss(model, hidden, targets)
    assert torch.equal(loss, expected) and torch.equal(logits, hidden @ weight.T)
    monkeypatch.setattr(head, "LOGITS_AT_ONCE", len(weight) * 10)
    in_parts, none = prediction_loss(model, hidden, targets)
    assert none is None
    torch.testing.assert_close(in_parts, expected)
    torch.testing.assert_close(torch.autograd.grad(in_parts, [hidden, weight]), gradients)
    with torch.no_grad():
        assert prediction_loss(model, hidden, targets)[1].shape == (37, len(weight))  # who asks for logits gets them


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("sinks", [False, True])
def test_scores_are_capped_windowed_and_sunk_as_a_plain_loop_does(window, softcap, sinks):
    torch.manual_seed(0)
    lengths, n_heads, width = [5, 1, 4], 4, 6
    q, k, v = (torch.randn(1, heads, sum(lengths), width, dtype=torch.float64) for heads in (n_heads, 2, 2))
    sink = torch.randn(n_heads) if sinks else None
    mask = None if window is None else torch.zeros(1, 1, 1, 1).expand(1, 1, 1, window)
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    options = {"softcap": softcap, "s_aux": sink, "scaling": 0.4, "cu_seq_lens_q": starts, "max_length_q": 5}
    found, _ = packed_attention(nn.Identity().eval(), q, k, v, mask, **options)
    expected = torch.zeros_like(found)
    for first, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        for place in range(first, end):
            for number in range(n_heads):
                seen = range(max(first, 0 if window is None else place - window + 1), place + 1)
                scores = [float(q[0, number, place] @ k[0, number // 2, other]) * 0.4 for other in seen]
                scores = torch.tensor(scores, dtype=torch.float64)
                scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
                weights = scores.exp()
                weights = weights / (weights.sum() + (0 if sink is None else sink[number].double().exp()))
                expected[0, place, number] = weights @ v[0, number // 2, list(seen)]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_dropout_is_not_swallowed():
    torch.manual_seed(0)
    x = torch.ones(1, 1, 64, 2)
    for scores in (Scores(1.0, dropout=0.5), Scores(1.0, dropout=0.5, softcap=50.0)):
        assert attend(x, x, x, None, scores).std() > 0.05
    starts = torch.tensor([0, 64], dtype=torch.int32)
    for kind, varies in ((nn.Identity().train(), True), (nn.Identity().eval(), False)):
        out, _ = packed_attention(kind, x, x, x, None, dropout=0.5, cu_seq_lens_q=starts, max_length_q=64)
        assert (out.std() > 0.05) == varies


@pytest.mark.parametrize("packed", [False, True])
def test_an_option_that_attention_does_not_know_is_refused_by_name(packed):
    x = torch.ones(1, 1, 4, 2)
    given = {"cu_seq_lens_q": torch.tensor([0, 4], dtype=torch.int32), "max_length_q": 4} if packed else {}
    with pytest.raises(AttentionRefused, match="Identity hands indices, temperature to its attention"):
        packed_attention(nn.Identity(), x, x, x, None, indices=x, temperature=2.0, use_cache=False, **given)


@torch.no_grad()
def test_a_window_goes_by_the_places_that_a_question_has_alone():
    """Questions that share a prefix, in layers with and without a window, against each question by itself."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 3, "use_sliding_window": True}
    options = {"vocab_size": 20, "num_key_value_heads": 1, "initializer_range": 0.3}
    model = Qwen2ForCausalLM(Qwen2Config(**options, **shape, **layers)).eval()
    prefix, questions = [3, 4, 5, 6, 7], [[8, 9, 10], [11, 12, 13, 14]]
    segments = [0] * 5 + [1] * 3 + [2] * 4
    ids = torch.tensor([prefix + questions[0] + questions[1]])
    positions = torch.tensor([[*range(5), *range(5, 8), *range(5, 9)]])
    order, segment = torch.arange(12), torch.tensor(segments)
    sees = (order[:, None] >= order) & ((segment == 0) | (segment == segment[:, None]))
    embeds = model.get_input_embeddings()(ids)
    hidden = read(
        model, inputs_embeds=embeds, attention_mask=sees[None, None], position_ids=positions
    ).last_hidden_state
    for number, question in enumerate(questions, 1):
        alone = own_logits(model, model.get_input_embeddings()(torch.tensor(prefix + question)))
        torch.testing.assert_close(model.lm_head(hidden[0, segment == number]), alone[5:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("takes_groups", [module.TAKES_GROUPS, False])
def test_the_kernel_of_gpus_is_called_as_this_torch_has_it(monkeypatch, takes_groups):
    """As far as shapes and arguments go: on tensors without content, which torch has on every machine."""
    monkeypatch.setattr(module, "TAKES_GROUPS", takes_groups)
    q, k, v = (torch.empty(10, heads, 8, dtype=torch.bfloat16, device="meta") for heads in (4, 2, 2))
    starts = torch.tensor([0, 4, 10], dtype=torch.int32, device="meta")
    asked = []
    kernel = module.varlen_attn
    monkeypatch.setattr(module, "varlen_attn", lambda *args, **given: (asked.append(given), kernel(*args, **given))[1])
    for window, expected in ((None, (-1, 0)), (3, (2, 0))):
        assert module._variable_length(q, k, v, starts, 6, 0.3, window).shape == q.shape
        assert asked[-1]["window_size"] == expected


def one_attention_for_all(q, k, v, starts, scores, window):
    """In place of a call for each document, whose number a compiler cannot see: what a GPU's one kernel is to it."""
    query, key, value = (
        part.repeat_interleave(q.shape[1] // part.shape[1], 1).transpose(0, 1)[None] for part in (q, k, v)
    )
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scores.scaling)[0].transpose(0, 1)


@pytest.mark.parametrize("recompute", [False, True])
def test_all_layers_compile_to_one_graph_whatever_is_packed(make_vlm, monkeypatch, recompute):
    """Neither a layer nor another packing compiles anew, nothing of a layer is left uncompiled."""
    from torch._dynamo import reset
    from torch._dynamo.utils import counters

    compile_whole = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **given: compile_whole(self, backend="eager", **given))
    monkeypatch.setattr(module, "_document_by_document", one_attention_for_all)
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


def test_the_kernel_is_asked_for_what_it_computes_on_devices_that_have_it(monkeypatch):
    def serves(width, scores=None, value_width=None):
        q, v = torch.zeros(3, 2, width), torch.zeros(3, 2, value_width or width)
        return module.kernel_serves(scores or Scores(None), q, v)

    assert [serves(width) for width in (8, 64, 80, 256)] == [True] * 4
    assert not any((serves(100), serves(4), serves(264), serves(64, value_width=128)))
    assert not serves(64, Scores(None, softcap=30.0))
    gpu = torch.device("cuda", 0)
    for capability, expected in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        module.choose_kernel(gpu)
        assert serves(64) == expected
    module.choose_kernel(torch.device("cpu"))
    assert serves(64)
