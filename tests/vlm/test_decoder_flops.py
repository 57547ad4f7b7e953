"""FLOPs, parameters and caches of causal language models: from a configuration, and as a forward pass has them."""

from contextlib import suppress
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from tests.vlm.test_architectures import architectures
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from vlmlaw.errors import UserError
from vlmlaw.evaluation.backends.release_cost import KvCache
from vlmlaw.vlm import decoder_flops as module
from vlmlaw.vlm.cost import experts_of, idle_parameters, llm_flops
from vlmlaw.vlm.decoder_flops import MLP_MATRICES, TOLERANCE, decoder_flops, is_plain
from vlmlaw.vlm.memory import text_parameters

# FLOPs that depend on what is read (jetmoe, longcat_flash, xlm), no list of layers (hrm_text, prophetnet), no number
# of positions (xlnet), attention that is sparse from some length on (big_bird, bigbird_pegasus), a forward that fails
# on a plain prompt (dbrx, gemma4_text, xmod).
REFUSED = {"big_bird", "bigbird_pegasus", "dbrx", "gemma4_text", "hrm_text", "jetmoe", "longcat_flash", "prophetnet"}
REFUSED |= {"xlm", "xlnet", "xmod"}
MIXTURES = {
    "deepseek_v2": {},  # latent attention, a dense first layer, shared experts
    "deepseek_v3": {},
    "ernie4_5_moe": {},
    "glm4_moe": {"first_k_dense_replace": 2},
    "gpt_oss": {},
    "llama4_text": {"moe_layers": [1, 3]},
    "mixtral": {},
    "qwen2_moe": {"shared_expert_intermediate_size": 24},
    "qwen3_moe": {"mlp_only_layers": [0, 2]},
    "qwen3_next": {"decoder_sparse_step": 2},  # linear attention
    "nemotron_h": {},  # state spaces
}


def tiny(name, **changes):
    """A configuration for which positions do not run out."""
    config = architectures.tiny_config(name)
    config = type(config)(**config.to_dict() | changes)
    if name != "xlnet":
        config.max_position_embeddings = config.max_seq_len = 512
    return config


def built(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for choose in (model.set_attn_implementation, getattr(model, "set_experts_implementation", None)):
        with suppress(TypeError, ValueError):  # a class with attention of its own, or without experts
            choose("eager")
    return model


@torch.no_grad()
def counted(model, n_tokens):
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.randint(10, 60, (1, n_tokens)), use_cache=False)
    return counter.get_total_flops()


def check_flops(config, model):
    """Exact where FLOPs are a T + b T^2; else to the tolerance."""
    found, real = llm_flops(config, n_tokens=320, n_predicted=320), counted(model, 320)
    if config.model_type == "llama4_text":  # whose class computes all experts for each token
        real -= 2 * 320 * idle_parameters(model)
    assert found == pytest.approx(real, rel=TOLERANCE)
    if not decoder_flops(config).whole.start:
        assert found == real


def unread(model, token):
    """Parameters of experts that no gradient of a single token's logits reaches."""
    n_experts, _ = experts_of(model.config)
    model.zero_grad(set_to_none=True)
    (model(input_ids=torch.tensor([[token]]), use_cache=False).logits ** 2).sum().backward()
    n_unread = 0
    for name, p in model.named_parameters():
        if "experts" in name.split(".") and p.grad is None:
            n_unread += p.numel()
        elif "experts" in name.split(".") and p.shape[0] == n_experts:
            n_unread += sum(part.numel() for part, grad in zip(p, p.grad, strict=True) if not grad.any())
    return n_unread


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_of_experts(name):
    """FLOPs, active parameters, all parameters; from a config.json's plain values as well."""
    config = tiny(name, **MIXTURES[name])
    model = built(config)
    check_flops(config, model)
    assert decoder_flops(SimpleNamespace(**config.to_dict())) == decoder_flops(config)
    assert 0 < idle_parameters(model) == unread(model, 11)
    of_layer, of_ends = text_parameters(config)
    n_all = sum(p.numel() for p in model.parameters())
    assert n_all - 4 < 4 * of_layer + of_ends <= n_all


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3", "qwen3_moe", "gpt_oss"])
@pytest.mark.parametrize("n_tokens", [1, 13])
def test_a_short_prompt_costs_what_torch_counts(name, n_tokens):
    config = tiny(name)
    assert llm_flops(config, n_tokens=n_tokens, n_predicted=n_tokens) == counted(built(config), n_tokens)


def test_layers_differ():
    """Of a model with two dense layers, those cost alike, and less than those with experts of the same width."""
    layers = decoder_flops(tiny("deepseek_v3", first_k_dense_replace=2, moe_intermediate_size=48)).layers
    assert layers[0] == layers[1] != layers[2] == layers[3]
    # Of 2 routed and a shared expert of three 32 x 48 matrices each, two are more; and a router of 4 experts.
    assert layers[2].per_token - layers[0].per_token == 2 * (2 * 3 * 32 * 48 + 32 * 4)


@pytest.mark.parametrize("name", sorted(MLP_MATRICES))
def test_the_formula_says_what_torch_counts(name):
    config = tiny(name)
    assert is_plain(config)
    check_flops(config, built(config))


def test_a_count_is_remembered(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    module._counted.cache_clear()
    found = decoder_flops(tiny("qwen3_moe"))
    module._counted.cache_clear()
    monkeypatch.setattr(module, "_count", None)
    assert decoder_flops(tiny("qwen3_moe")) == found


@pytest.mark.slow
def test_beside_a_gpu_another_process_counts(monkeypatch):
    """Its classes would take kernels that only run there."""
    here = asdict(module._count(tiny("qwen3_next").to_dict()))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(module, "recall", lambda *asked: None)
    monkeypatch.setattr(module, "_count", None)
    module._counted.cache_clear()
    assert asdict(decoder_flops(tiny("qwen3_next"))) == here
    with pytest.raises(UserError, match="FLOPs of longcat_flash cannot be counted"):
        decoder_flops(tiny("longcat_flash"))


def test_what_depends_on_the_tokens_is_refused_by_name():
    config = tiny("longcat_flash")
    with pytest.raises(UserError, match="FLOPs of longcat_flash cannot be counted"):
        decoder_flops(config)
    with pytest.raises(UserError, match="LongcatFlashForCausalLM routes tokens to experts without parameters"):
        idle_parameters(built(config))
    with pytest.raises(UserError, match="DogeForCausalLM has experts under a name that is not known"):
        idle_parameters(built(tiny("doge", is_moe=True, num_experts=4, num_experts_per_tok=2)))


def test_flops_that_grow_in_steps_are_refused(monkeypatch):
    monkeypatch.setattr(module, "_layers_and_rest", lambda model, fake, n: ([10**9 * (n // 128)] * 4, 4096 * n))
    with pytest.raises(UserError, match="grow with the number of tokens in steps"):
        module._count(tiny("qwen3_moe").to_dict())


def check_cache(config, model):
    """The cache after 14 tokens. A layer with a window forgets the token that the next one pushes out."""
    found = KvCache.of_config(config, dtype="float32")
    if found is None:
        return False
    with torch.no_grad():
        cache = model(input_ids=torch.arange(10, 24)[None], use_cache=True).past_key_values
    kept = sum(x.keys.nbytes + x.values.nbytes for x in cache.layers if getattr(x, "keys", None) is not None)
    assert 0 <= found.bytes_of(14) - kept <= found.windowed
    return True


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3", "minicpm3", "llama4_text", "qwen3_next", "gemma3_text"])
def test_the_cache_holds_what_a_pass_keeps(name):
    config = tiny(name)
    assert check_cache(config, built(config))


@pytest.mark.parametrize("name", ["falcon", "falcon_h1", "mimo_v2_flash", "deepseek_v32", "mamba"])
def test_a_cache_that_a_configuration_does_not_tell_is_not_counted(name):
    assert KvCache.of_config(tiny(name), dtype="float32") is None


def is_built(name):
    try:
        architectures.tiny_model(name)
    except Exception:  # whatever one of 190 classes raises: as docs/architectures.md says
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() - MLP_MATRICES.keys()))
def test_every_other_architecture_is_counted_or_refused(name):
    if not is_built(name):
        pytest.skip("is not built this small")
    config = tiny(name)
    if name in REFUSED:
        with pytest.raises(UserError, match=f"FLOPs of {name} cannot be counted"):
            decoder_flops(config)
        return
    model = built(config)
    check_flops(config, model)
    if experts_of(config)[0] > 1 and name != "deepseek_v4":  # whose random table routes all tokens to one expert
        assert idle_parameters(model) == unread(model, 11)
