"""The model's forward has no memory: V, attention and pruning are those of the call, whatever came before."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from transformers import CLIPVisionConfig, Qwen2Config

from vlmlaw.data.shards import Dataset
from vlmlaw.errors import UserError
from vlmlaw.tokens.token_table import load_tokenizer, tokenize
from vlmlaw.training.batches import packed_inputs
from vlmlaw.training.distributed import Machine
from vlmlaw.training.settings import ComputeSettings
from vlmlaw.training.sharding import prepare
from vlmlaw.vlm.generate import Prompt, replies
from vlmlaw.vlm.image_inputs import ImageInputs
from vlmlaw.vlm.packed_attention import PACKED, attention_of_call
from vlmlaw.vlm.processor import VlmProcessor

N_PATCHES, IMAGE = 16, 1
ELASTIC = ["m3", "mqt", "visionzip", "average_at_inference", "fastv"]
TEXT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
LLM = Qwen2Config(vocab_size=60, num_key_value_heads=2, initializer_range=0.2, pad_token_id=0, **TEXT)
CLIP = CLIPVisionConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=32, patch_size=8
)


def make(make_vlm, name, n_visual_tokens=N_PATCHES):
    """A model of that V; the weights do not depend on V. It has been called: transformers keeps its own hooks then."""
    vlm = make_vlm(compressor=name, n_visual_tokens=n_visual_tokens, text=LLM, vision=CLIP)
    with torch.no_grad():
        vlm(**prompt(vlm, n_visual_tokens))
    return vlm


def prompt(vlm, n_visual_tokens, seed=0):
    """A prompt for V tokens: for those that the LLM reads, if it chooses among them itself."""
    generator = torch.Generator().manual_seed(seed)
    n_each = N_PATCHES if vlm.compressor.inside_llm else n_visual_tokens
    asked = torch.randint(5, 60, (1, 6), generator=generator)
    ids = torch.cat([torch.full((1, n_each), IMAGE), asked], dim=1)
    given = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 32, 32, generator=generator)}
    return given | ({"question_ids": asked, "question_mask": torch.ones_like(asked)} if vlm.reads_question else {})


def state_of(vlm):
    """All that a later call could find changed: weights, configuration, attention, caches and hooks."""
    parts = list(vlm.named_modules())
    attributes = {name: {key: value for key, value in vars(part).items()} for name, part in parts}
    simple = (int, float, str, bool, type(None), torch.dtype)
    return {
        "weights": {name: tensor.clone() for name, tensor in vlm.state_dict().items()},
        "config": vlm.config.to_json_string(),
        "attention": [
            part.config._attn_implementation for _, part in parts if getattr(part, "config", None) is not None
        ],
        "attributes": {
            name: {key: value for key, value in own.items() if isinstance(value, simple)}
            for name, own in attributes.items()
        },
        "keys": {name: sorted(own) for name, own in attributes.items()},
        "hooks": {name: len(part._forward_hooks) + len(part._forward_pre_hooks) for name, part in parts},
    }


def assert_unchanged(vlm, before):
    after = state_of(vlm)
    torch.testing.assert_close(after.pop("weights"), before["weights"], rtol=0, atol=0)
    assert after == {name: value for name, value in before.items() if name != "weights"}


# --------------------------------------------------------------------------- V


@pytest.mark.parametrize("name", ELASTIC)
@torch.no_grad()
def test_interleaved_calls_equal_separate_models(make_vlm, name):
    """One model asked at V = 4, at its own V, at 1, ... against a model for each V."""
    vlm = make(make_vlm, name)
    before = state_of(vlm)
    for n_tokens in (4, None, 1, N_PATCHES, 4, None):
        v = n_tokens or N_PATCHES
        given = prompt(vlm, v)
        expected = make(make_vlm, name, v)(**given).logits
        assert torch.equal(vlm(**given, n_visual_tokens=n_tokens).logits, expected)
    assert_unchanged(vlm, before)


@pytest.mark.parametrize("name", ELASTIC)
@torch.no_grad()
def test_generating_at_another_v_equals_a_model_of_that_v(make_vlm, words, name):
    """By transformers' `generate` and by ours, with no trace in later calls."""
    vlm, of_v = make(make_vlm, name), make(make_vlm, name, 4)
    before, given = state_of(vlm), prompt(vlm, 4)
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = of_v.generate(**given, **options)
    assert torch.equal(vlm.generate(**given, **options, n_visual_tokens=4), expected)
    ids = given["input_ids"][0].tolist()
    asked = [Prompt(tuple(ids), n_text_tokens=len(ids) - 4, images=("image",))]
    options = {"patches_of": lambda _: vlm.encode_images(given["pixel_values"]), "stop_ids": [-1], "pad_id": 0}
    (said,) = replies(vlm, asked, **options, batch_size=1, max_new_tokens=5, n_visual_tokens=4)
    assert said == (0, expected[0, -5:].tolist())
    assert_unchanged(vlm, before)


@pytest.mark.parametrize("name", ELASTIC)
def test_threads_with_different_v_do_not_meet(make_vlm, name):
    """Also where some of the calls prune with eager attention, and others have the model's own."""
    vlm, sizes = make(make_vlm, name), (1, 4, N_PATCHES)
    given = {v: prompt(vlm, v, seed=v) for v in sizes}
    with torch.no_grad():
        expected = {v: make(make_vlm, name, v)(**given[v]).logits for v in sizes}
    before, together = state_of(vlm), Barrier(6)

    @torch.no_grad()
    def ask(v):
        together.wait()
        return all(torch.equal(vlm(**given[v], n_visual_tokens=v).logits, expected[v]) for _ in range(15))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(ask, sizes * 2))
    assert_unchanged(vlm, before)


def test_gradients_at_each_v_are_those_of_a_model_of_that_v(make_vlm):
    """Backward after forwards at other V: what is recorded belongs to the call."""
    vlm = make(make_vlm, "mqt")
    given = {v: prompt(vlm, v, seed=v) for v in (4, 1)}
    losses = [vlm(**given[v], labels=given[v]["input_ids"], n_visual_tokens=v).loss for v in (4, 1)]
    sum(losses).backward()
    expected = make(make_vlm, "mqt", 1)
    for v in (4, 1):
        of_v = make(make_vlm, "mqt", v)
        of_v(**given[v], labels=given[v]["input_ids"]).loss.backward()
        for parameter, other in zip(expected.parameters(), of_v.parameters(), strict=True):
            if other.grad is not None:
                parameter.grad = other.grad if parameter.grad is None else parameter.grad + other.grad
    torch.testing.assert_close(vlm.compressor.proj.grad, expected.compressor.proj.grad)
    torch.testing.assert_close(vlm.compressor.query.grad, expected.compressor.query.grad)


def test_a_v_that_the_weights_cannot_make_is_an_error_and_leaves_nothing(make_vlm):
    for name, n_tokens, message in (("m3", 5, "cannot make V = 5"), ("block_linear", 1, "its weights belong to V = 4")):
        vlm = make(make_vlm, name, 4)
        before = state_of(vlm)
        with pytest.raises(UserError, match=message):
            vlm(**prompt(vlm, n_tokens), n_visual_tokens=n_tokens)
        assert_unchanged(vlm, before)


def test_a_processor_for_calls_at_another_v(make_vlm, words):
    from PIL import Image

    vlm = make_vlm(compressor="m3", n_visual_tokens=N_PATCHES)
    processor = VlmProcessor.of_model(vlm, words, n_visual_tokens=4)
    given = processor(text="<image> shape red", images=Image.new("RGB", (32, 32)))
    assert int((given["input_ids"] == vlm.config.image_token_id).sum()) == 4
    assert vlm(**given, n_visual_tokens=4).logits.shape[1] == given["input_ids"].shape[1]
    pruned = make_vlm(compressor="fastv", n_visual_tokens=N_PATCHES)
    assert VlmProcessor.of_model(pruned, words, n_visual_tokens=4).n_visual_tokens == N_PATCHES  # all are read first


# --------------------------------------------------------------------------- attention


@pytest.fixture(scope="module")
def packed(small):
    """A packed row of four dialogues, with patches, and targets."""
    table = tokenize(Dataset(small.data["train"]), load_tokenizer(small.tokenizer), independent=False)
    patches = torch.randn(100, N_PATCHES, 16, generator=torch.Generator().manual_seed(0))
    inputs, _ = packed_inputs(
        table,
        [0, 3, 5, 7],
        images_of=lambda rows: ImageInputs(patches=patches[torch.from_numpy(rows)]),
        n_visual_tokens=4,
        pad_id=0,
        reads_question=False,
    )
    return inputs


@pytest.mark.parametrize("own", ["sdpa", "eager"])
def test_packed_attention_is_the_calls(make_vlm, packed, own):
    """The same loss and gradient as with packed attention set for good, and the model's own afterwards."""
    vlm, for_good = make_vlm(), make_vlm()
    vlm.language_model.set_attn_implementation(own)
    for_good.language_model.set_attn_implementation(PACKED)
    before = state_of(vlm)
    losses = [model(**packed, use_cache=False).loss for model in (vlm, for_good)]
    assert_unchanged(vlm, before)
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    for one, other in zip(vlm.language_model.parameters(), for_good.language_model.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_recomputed_layers_keep_the_calls_attention(make_vlm, packed):
    """The backward pass runs when the call is over: other attention would mix the documents of the row."""
    plain, recomputing = make_vlm().train(), make_vlm().train()
    compute = ComputeSettings(recompute=True, logs=())
    prepare(recomputing, machine=Machine(torch.device("cpu")), compute=compute)
    for model in (plain, recomputing):
        model(**packed, use_cache=False).loss.backward()
        assert model.language_model.config._attn_implementation == "sdpa"
    for (name, one), other in zip(plain.named_parameters(), recomputing.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            assert torch.equal(one.grad, other.grad), name


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_transformers_own_recomputation_of_a_packed_row_is_refused(make_vlm, packed):
    """Its backward pass could not know of the call's attention."""
    vlm = make_vlm().train()
    vlm.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match=r"recompute by `vlmlaw\.training\.sharding`, or give padded rows"):
        vlm(**packed, use_cache=False)


class Failure(Exception):
    pass


@pytest.mark.parametrize("kind", ["packed", "pruned", "padded", "generated"])
@torch.no_grad()
def test_a_forward_that_raises_leaves_nothing_behind(make_vlm, packed, monkeypatch, kind):
    vlm = make_vlm() if kind == "packed" else make(make_vlm, "fastv" if kind in ("pruned", "generated") else "m3")
    given = packed if kind == "packed" else prompt(vlm, 4) | {"n_visual_tokens": 4}
    expected = vlm(**given).logits
    before = state_of(vlm)

    def fail(*_args, **_options):
        raise Failure

    with monkeypatch.context() as patched:
        patched.setattr(type(vlm.language_model.base_model.norm), "forward", fail)
        with pytest.raises(Failure):
            vlm.generate(**given, max_new_tokens=2) if kind == "generated" else vlm(**given)
    assert_unchanged(vlm, before)
    assert torch.equal(vlm(**given).logits, expected)


@torch.no_grad()
def test_a_later_step_keeps_the_prompts_choice_whatever_v_it_names(make_vlm):
    """The choice stays with the cache, not with the model."""
    vlm, given = make(make_vlm, "fastv"), None
    given = prompt(vlm, 4)
    found = []
    for n_tokens in (4, None):
        cache = vlm(**given, n_visual_tokens=4, use_cache=True).past_key_values
        step = {"input_ids": torch.tensor([[7]]), "past_key_values": cache, "use_cache": True}
        found.append(vlm(**step, n_visual_tokens=n_tokens).logits)
    assert torch.equal(*found)
    whole = vlm(**given, use_cache=True).past_key_values
    assert not torch.equal(vlm(**step | {"past_key_values": whole}).logits, found[0])


def test_another_threads_attention_waits_for_its_turn(make_vlm):
    """Two implementations of one model never run at once; the model's own is back after both."""
    llm = make_vlm().language_model
    running, seen = [], []

    def use(name):
        for _ in range(50):
            with attention_of_call(llm, name) as named:
                running.append(named)
                seen.append((named, llm.config._attn_implementation, len(set(running))))
                running.remove(named)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, ["eager", None, PACKED, "eager"]))
    assert {named for named, *_ in seen} == {"eager", "sdpa", PACKED}
    assert all(named == config and n_kinds == 1 for named, config, n_kinds in seen)
    assert llm.config._attn_implementation == "sdpa"


@torch.no_grad()
def test_inputs_by_name_and_as_one_value_are_the_same(make_vlm):
    vlm = make(make_vlm, "visionzip", 4)
    given = prompt(vlm, 4)
    expected = vlm(**given).logits
    ids = given.pop("input_ids")
    assert torch.equal(vlm(ids, images=ImageInputs(**given)).logits, expected)
    with pytest.raises(ValueError, match="pixel_values given twice"):
        vlm(ids, **given, images=ImageInputs(**given))


def test_modules_that_share_weights_stay_one(make_vlm):
    """The compressor at another V holds no weights of its own."""
    vlm = make(make_vlm, "mqt")
    other = vlm.compressor.with_n_visual_tokens(4)
    assert all(a is b for a, b in zip(other.parameters(), vlm.compressor.parameters(), strict=True))
    with torch.no_grad():
        vlm.compressor.query.add_(1)
    assert other.query is vlm.compressor.query
