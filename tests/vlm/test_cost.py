"""Costs: analytic FLOPs are those that torch counts, parameters those of the modules."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    Qwen2Config,
    Qwen3Config,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from vlmlaw.vlm.cost import count_parameters, inference_flops, llm_flops, vision_flops
from vlmlaw.vlm.towers.conv_tower import ConvTower, ConvTowerConfig

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
LLMS = {
    "qwen2": Qwen2Config(**SHAPE, num_key_value_heads=4, vocab_size=60),
    "grouped heads": Qwen2Config(**SHAPE, num_key_value_heads=1, vocab_size=60, tie_word_embeddings=True),
    "qwen3, heads wider than the model": Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=24, vocab_size=60),
}
TOWERS = {
    "conv": ConvTower(ConvTowerConfig(hidden_size=16, num_hidden_layers=3, image_size=32)),
    "conv of small patches": ConvTower(
        ConvTowerConfig(hidden_size=16, num_hidden_layers=1, image_size=32, patch_size=4)
    ),
    "clip": CLIPVisionModel(CLIPVisionConfig(**SHAPE, image_size=32, patch_size=8)),
    "siglip": SiglipVisionModel(SiglipVisionConfig(**SHAPE, image_size=32, patch_size=8, vision_use_head=False)),
}


@torch.no_grad()
def counted(run) -> int:
    """FLOPs of the products that torch counts. On a CPU it does not see its fused attention: use eager attention."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", LLMS)
@pytest.mark.parametrize("n_tokens", [1, 13])
def test_flops_of_llms(kind, n_tokens):
    config = LLMS[kind]
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    ids = torch.arange(n_tokens)[None]
    for n_predicted in (1, n_tokens):
        found = counted(lambda n=n_predicted: model(input_ids=ids, logits_to_keep=n, use_cache=False))
        expected = llm_flops(config, n_tokens=n_tokens, n_predicted=n_predicted)
        assert found == expected


@pytest.mark.parametrize(
    "kind",
    ["gpt2", "gpt_neox", "granite", "jais2", "nanochat", "olmo2", "opt", "persimmon", "phi", "phi3", "starcoder2"],
)
def test_flops_of_other_decoders(kind):
    """MLPs with and without a gate, and the names that configurations have for their width and their key heads."""
    own = {"gpt2": {"n_inner": 40}, "opt": {"ffn_dim": 40, "word_embed_proj_dim": 32}}.get(
        kind, {"intermediate_size": 40}
    )
    names = ("n_embd", "n_layer", "n_head") if kind == "gpt2" else tuple(SHAPE)[:3]
    shape = dict(zip(names, (32, 2, 4), strict=True)) | own | {"vocab_size": 60}
    shape |= {"num_key_value_heads": 2} if kind in ("granite", "olmo2", "phi", "phi3", "starcoder2") else {}
    config = AutoConfig.for_model(kind, **shape, pad_token_id=0, bos_token_id=0, eos_token_id=1)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    found = counted(lambda: model(input_ids=torch.arange(9)[None], use_cache=False))
    assert found == llm_flops(config, n_tokens=9, n_predicted=9)


@pytest.mark.parametrize("kind", TOWERS)
def test_flops_of_towers(kind):
    tower = TOWERS[kind].eval()
    if kind in ("clip", "siglip"):
        tower.set_attn_implementation("eager")
    assert counted(lambda: tower(pixel_values=torch.randn(1, 3, 32, 32))) == vision_flops(tower.config)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_visual_tokens": 1, "position_embedding": True},
        {"compressor": "tokenpacker", "feature_layers": [0, 1, 2]},
        {"compressor": "quecc", "feature_layers": [1, 2]},
        {"vision": TOWERS["clip"].config, "feature_layers": [-1]},
        {"text": LLMS["qwen3, heads wider than the model"]},
    ],
    ids=lambda options: ", ".join(options) or "default",
)
def test_flops_of_an_image_with_a_question(make_vlm, options):
    """The whole prefill, and each of its parts alone."""
    vlm = make_vlm(**options)
    vlm.set_attn_implementation("eager")
    n_text = 7
    n_tokens = vlm.config.n_visual_tokens + n_text
    asked = torch.arange(10, 10 + n_text)[None]
    ids = torch.cat([torch.full((1, vlm.config.n_visual_tokens), vlm.config.image_token_id), asked], dim=1)
    given = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 32, 32), "logits_to_keep": 1}
    if vlm.compressor.needs_question:
        given |= {"question_ids": asked, "question_mask": torch.ones_like(asked)}
    flops = inference_flops(vlm, n_text_tokens=n_text)
    assert counted(lambda: vlm(**given, use_cache=False)) == flops.all
    levels = torch.randn(1, 16, vlm.compressor.n_levels * vlm.compressor.width)
    states = torch.randn(1, n_text, vlm.config.text_config.hidden_size)
    assert counted(lambda: vlm.compressor(levels, states)) == flops.compressor
    tokens = torch.randn(1, vlm.config.n_visual_tokens, vlm.compressor.out_width)
    assert counted(lambda: vlm.projector(tokens)) == flops.projector
    assert (flops.question_pass > 0) == vlm.compressor.needs_question
    assert flops.llm_2nt == 2 * count_parameters(vlm).llm_non_embedding * n_tokens


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_with_and_without_embeddings(make_vlm, tied):
    config = Qwen2Config(**SHAPE, num_key_value_heads=2, vocab_size=60, tie_word_embeddings=tied)
    vlm = make_vlm(text=config, position_embedding=True, compressor="quecc")
    found = count_parameters(vlm)
    sizes = {name: p.numel() for name, p in vlm.named_parameters()}  # tied weights are named once

    def of(*prefixes):
        return sum(size for name, size in sizes.items() if name.startswith(prefixes))

    assert found.llm == of("language_model")
    assert found.llm_non_embedding == of("language_model.model.layers", "language_model.model.norm")
    assert found.llm - found.llm_non_embedding == 60 * 32 * (1 if tied else 2)
    assert found.vision == of("vision_tower")
    assert found.compressor == of("compressor")
    assert found.projector == of("projector", "places")
    assert found.llm + found.vision + found.compressor + found.projector == sum(sizes.values())


def test_a_layer_has_12_times_its_width_squared(small, words):
    """What the law's N stands for (Kaplan et al. 2020), up to the rounding of the MLP's width, norms and biases."""
    from vlmlaw.training.language_model import HEAD_MULTIPLE, qwen2_config
    from vlmlaw.training.settings import ShapeSettings

    for width in (48, 96, 192):
        settings = ShapeSettings(hidden_size=width, num_hidden_layers=3, num_attention_heads=3)
        config = qwen2_config(settings, vocab_size=10, pad_token_id=0, eos_token_id=2)
        assert config.intermediate_size % HEAD_MULTIPLE == 0
        layers = AutoModelForCausalLM.from_config(config).model.layers
        matrices = sum(p.numel() for p in layers.parameters() if p.ndim == 2)
        assert matrices == pytest.approx(3 * 12 * width**2, rel=0.02)


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral", "qwen2_moe"])
def test_experts_that_a_token_does_not_pass_are_no_part_of_n(make_vlm, words, kind):
    """Against the same model with only as many experts as a token passes; the router differs by their number."""
    from vlmlaw.vlm.decoder_flops import decoder_flops

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    more = {"moe_intermediate_size": 16, "head_dim": 8}
    more |= {"shared_expert_intermediate_size": 24} if kind == "qwen2_moe" else {}
    experts = "num_local_experts" if kind == "mixtral" else "num_experts"
    given = shape | {"vocab_size": len(words), "intermediate_size": 16, "num_experts_per_tok": 2, "pad_token_id": 0}
    given |= {} if kind == "mixtral" else more
    many, few = (make_vlm(text=AutoConfig.for_model(kind, **given | {experts: n_experts})) for n_experts in (8, 2))
    all_parameters, active = count_parameters(many), count_parameters(few)
    assert all_parameters.llm_active == active.llm_non_embedding + 2 * 6 * 32  # two layers' routers
    assert all_parameters.llm_non_embedding > 1.5 * all_parameters.llm_active
    per_token = decoder_flops(many.config.text_config).layers[0].of(1)
    in_matrices = sum(p.numel() for name, p in few.language_model.model.layers[0].named_parameters() if p.ndim > 1)
    attention = 2 * 2 * 32
    assert per_token - attention == pytest.approx(2 * (in_matrices + 6 * 32), rel=0.02)
