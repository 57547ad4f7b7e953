"""Tokens taken out between the LLM's layers: as released code does, and as whole passes do step by step."""

import pytest
import torch
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config

from golden_files import golden
from vlmlaw.compressors import COMPRESSORS, InsideLlm, build_compressor
from vlmlaw.errors import UserError
from vlmlaw.vlm.pruning import pruned

NAMES = [name for name, kind in COMPRESSORS.items() if issubclass(kind, InsideLlm)]
IMAGE, N_PATCHES = 1, 16
LLM = Qwen2Config(
    vocab_size=60,
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    initializer_range=0.2,
    pad_token_id=0,
)

# (file, key of the case, compressor, V, options, keys of what is kept after each stage)
RELEASED = [
    ("fastv_g12", "K2_V16", "fastv", 16, {"layer": 2}, ["kept_K2_V16"]),
    ("fastv_g12", "K2_V72", "fastv", 72, {"layer": 2}, ["kept_K2_V72"]),
    ("fastv_g12", "K1_V36", "fastv", 36, {"layer": 1}, ["kept_K1_V36"]),
    ("dart_g12", "K2_V76", "dart", 76, {"layer": 2}, ["kept_K2_V76"]),
    ("dart_g12", "K1_V36", "dart", 36, {"layer": 1}, ["kept_K1_V36"]),
    ("pyramiddrop_g12", "layers1_2_3", "pyramiddrop", 18, {"layers": [1, 2, 3]}, None),
    ("pyramiddrop_g12", "layers2", "pyramiddrop", 14, {"layers": [2]}, ["layers2_after2"]),
]


@pytest.mark.parametrize(("file", "case", "name", "n_tokens", "options", "kept"), RELEASED)
@torch.no_grad()
def test_equals_released_code(file, case, name, n_tokens, options, kept):
    g = golden(file)
    config = LlamaConfig(**{key: value for key, value in g.meta["llm"].items() if key != "model_type"})
    llm = LlamaForCausalLM(config).eval()
    llm.load_state_dict(g.weights)
    llm.set_attn_implementation("eager")
    embeds, first, n_text = g.inputs["embeds"], g.meta["system_tokens"], g.meta["text_tokens"]
    n_image = g.meta["image_tokens"]
    is_image = torch.zeros(embeds.shape[:2], dtype=torch.bool)
    is_image[:, first : first + n_image] = True
    compressor = build_compressor(name, g.grid, 8, n_tokens, **options)
    asking, cache = torch.full((2,), embeds.shape[1] - 1), DynamicCache(config=config)
    with pruned(llm, compressor, is_image_BT=is_image, asking_B=asking, cache=cache):
        logits = llm(inputs_embeds=embeds, past_key_values=cache).logits[:, -n_text:]
    torch.testing.assert_close(logits, g.outputs[f"logits_{case}"], rtol=0, atol=1e-4)
    kept = kept or [f"layers1_2_3_after{stage}" for stage in (1, 2, 3)]
    assert len(cache.vlmlaw_kept) == len(kept)
    for stage, key in zip(cache.vlmlaw_kept, kept, strict=True):
        of_image = (stage.places_BS >= first) & (stage.places_BS < first + n_image)
        assert torch.equal(stage.places_BS[of_image].view(2, -1) - first, g.index[key].sort(dim=1).values)
    whole = llm(inputs_embeds=embeds).logits[:, -n_text:]  # nothing is left behind in the model
    torch.testing.assert_close(whole, g.outputs["all_patches_logits"], rtol=0, atol=1e-4)


def make(make_vlm, name, **options):
    given = {"compressor": name, "n_visual_tokens": 3, "feature_layers": [-2], "text": LLM} | options
    return make_vlm(**given)


def prompt(n_text, seed):
    generator = torch.Generator().manual_seed(seed)
    asked = torch.randint(5, 60, (1, n_text), generator=generator)
    ids = torch.cat([torch.full((1, 2), 7), torch.full((1, N_PATCHES), IMAGE), asked], dim=1)
    return {"input_ids": ids, "pixel_values": torch.randn(1, 3, 32, 32, generator=generator)}


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_generates_with_the_choice_of_the_prompt(make_vlm, name):
    """Greedy generation, two prompts padded on the left, equals whole passes that ask at the prompt's last token."""
    vlm = make(make_vlm, name)
    alone = [prompt(n_text, seed=n_text) for n_text in (6, 4)]
    longest = alone[0]["input_ids"].shape[1]
    ids = torch.zeros(2, longest, dtype=torch.long)
    for row, given in enumerate(alone):
        ids[row, longest - given["input_ids"].shape[1] :] = given["input_ids"][0]
    made = vlm.generate(
        input_ids=ids,
        attention_mask=(ids != 0).long(),
        pixel_values=torch.cat([given["pixel_values"] for given in alone]),
        max_new_tokens=4,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[:, longest:]
    for row, given in enumerate(alone):
        sequence, n_prompt = given["input_ids"], given["input_ids"].shape[1]
        for step in range(4):
            targets = torch.full_like(sequence, -100)
            targets[:, n_prompt - 1] = targets[:, -1] = 7  # asked at the first, read at the last
            logits = vlm(input_ids=sequence, pixel_values=given["pixel_values"], targets=targets).logits
            assert logits[-1].argmax() == made[row, step]
            sequence = torch.cat([sequence, logits[-1].argmax().reshape(1, 1)], dim=1)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_each_layer_reads_as_many_tokens_as_stated(make_vlm, name):
    """Taken out, not masked: later layers get fewer states, and keep fewer keys."""
    vlm, given = make(make_vlm, name), prompt(5, seed=0)
    read = []
    hooks = [
        layer.mlp.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0].shape[1]))
        for layer in vlm.language_model.base_model.layers
    ]
    outputs = vlm(**given)
    for hook in hooks:
        hook.remove()
    if name == "explained":
        assert read[1:5] == [N_PATCHES + 7] * 4  # a pass of its own, before the second layer, to rate the tokens
        del read[1:5]
    expected = [n_tokens + 7 for n_tokens in vlm.compressor.tokens_by_layer(4)]
    assert read == expected and expected[-1] < expected[0]
    assert [layer.keys.shape[2] for layer in outputs.past_key_values.layers] == expected
    assert outputs.logits.shape[1] == given["input_ids"].shape[1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n_before", [0, 1, 3])
@torch.no_grad()
def test_padding_does_not_change_the_choice(name, n_before):
    """144 patches behind 0, 1 or 3 tokens: padded on the left beside a longer prompt, and alone, the same are kept."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=50, initializer_range=0.2, **shape)
    torch.manual_seed(n_before)
    llm = LlamaForCausalLM(config).eval()
    llm.set_attn_implementation("eager")
    compressor = build_compressor(name, 12, 8, 20)

    def kept(embeds, first, mask):
        is_image = torch.zeros(embeds.shape[:2], dtype=torch.bool)
        is_image[:, first : first + 144] = True
        places = (mask.cumsum(dim=1) - 1).clamp(min=0)
        asking, cache = torch.tensor([embeds.shape[1] - 1]), DynamicCache(config=config)
        with pruned(llm, compressor, is_image_BT=is_image, asking_B=asking, cache=cache):
            llm(inputs_embeds=embeds, attention_mask=mask, position_ids=places, past_key_values=cache)
        return cache.vlmlaw_kept[-1].places_BS[0]

    for n_padding in (1, 2, 7, 8, 30):
        embeds = torch.randn(1, n_padding + n_before + 144 + 6, 32)  # padding is never zero in a model
        mask = torch.ones(embeds.shape[:2], dtype=torch.long)
        alone = kept(embeds[:, n_padding:], n_before, mask[:, n_padding:])
        mask[:, :n_padding] = 0
        padded = kept(embeds, n_padding + n_before, mask)
        assert torch.equal(padded[n_padding:] - n_padding, alone)


def test_stages_are_the_published_ones():
    with torch.device("meta"):
        # LLaVA-1.5-7B: 576 patches, 32 layers
        made = {name: build_compressor(name, 24, 8, 72).tokens_by_layer(32) for name in NAMES}
    assert made["fastv"] == made["dart"] == [576] * 2 + [72] * 30
    assert made["pyramiddrop"] == [576] * 8 + [288] * 8 + [144] * 8 + [72] * 8
    assert made["vtw"] == [576] * 4 + [0] * 28
    assert made["promptdistill"] == [576] * 14 + [72] * 18
    assert made["explained"] == [576] + [72] * 31
    sparse = build_compressor("sparsevlm", 24, 8, 17, kept=[66, 30])
    assert sparse.tokens_by_layer(32) == [576] * 3 + [66] * 4 + [30] * 9 + [17] * 16
    assert build_compressor("pyramiddrop", 24, 8, 576).tokens_by_layer(32) == [576] * 32


def test_impossible_stages_are_refused():
    for name, options in (("fastv", {"layer": 4}), ("vtw", {"layer": 5}), ("pyramiddrop", {"layers": [1, 4]})):
        with pytest.raises(UserError, match=f"{name}: layer is . and the LLM has 4 layers.*set it to 3 or less"):
            build_compressor(name, 4, 8, 2, **options).stages(4)
    with pytest.raises(UserError, match=r"layers are \[2, 1\]; expected them in ascending order"):
        build_compressor("pyramiddrop", 4, 8, 2, layers=[2, 1])
    with pytest.raises(UserError, match="kept has 3 numbers; expected one for each of the 2 stages but the last"):
        build_compressor("pyramiddrop", 4, 8, 2, layers=[1, 2], kept=[8, 6, 4])


@torch.no_grad()
def test_what_cannot_be_pruned_is_refused(make_vlm):
    vlm, given = make(make_vlm, "fastv"), prompt(5, seed=0)
    two = {
        "input_ids": torch.cat([given["input_ids"]] * 2, dim=1),
        "pixel_values": given["pixel_values"].repeat(2, 1, 1, 1),
    }
    with pytest.raises(ValueError, match="keeps 3 tokens of one image; found a text with several"):
        vlm(**two)
    without = torch.cat([given["input_ids"], torch.full_like(given["input_ids"], 7)])
    with pytest.raises(ValueError, match=r"one image in each sequence, of 16; found sequences with \[0, 16\] image"):
        vlm(input_ids=without, pixel_values=given["pixel_values"])
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=10))
    inputs = {"is_image_BT": torch.ones(1, 16).bool(), "asking_B": torch.tensor([15])}
    with (
        pytest.raises(UserError, match="GPT2LMHeadModel has no `layers` with `self_attn`"),
        pruned(gpt2, vlm.compressor, **inputs),
    ):
        pass
