"""Compressors applied to a trained model: what the tower hands over, pruning inside the LLM, weights for many V."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText, CLIPVisionConfig, Qwen2Config, SiglipVisionConfig

from golden_files import golden
from vlmlaw.compressors import COMPRESSORS, InsideLlm, received_attention
from vlmlaw.errors import UserError
from vlmlaw.vlm.cell_name import MeasuredCell
from vlmlaw.vlm.cost import inference_flops
from vlmlaw.vlm.image_inputs import ImageInputs
from vlmlaw.vlm.load import config_of
from vlmlaw.vlm.pruning import asking_places
from vlmlaw.vlm.towers.attention import watched
from vlmlaw.vlm.towers.conv_tower import ConvTowerConfig
from vlmlaw.vlm.towers.features import patch_and_class_features, patch_features

TINY = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
TOWERS = {
    "conv": ConvTowerConfig(hidden_size=16, num_hidden_layers=3, image_size=32),
    "clip": CLIPVisionConfig(**TINY, image_size=32, patch_size=8),
    "siglip": SiglipVisionConfig(**TINY, image_size=32, patch_size=8, vision_use_head=False),
}
N_PATCHES, V, IMAGE, N_TEXT = 16, 5, 1, 7
SQUARE = ("average_at_inference", "stride_at_inference", "bilinear_at_inference", "downsample_at_inference")
NAMES = [name for name, kind in COMPRESSORS.items() if kind.training_free]
LLM = Qwen2Config(
    vocab_size=60,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    initializer_range=0.2,
    pad_token_id=0,
)


def make(make_vlm, tower: str, name: str, **options):
    """A model of the compressor, with eager attention, whose FLOPs torch can count."""
    n_tokens = 4 if name in SQUARE else V
    given = {"compressor": name, "n_visual_tokens": n_tokens, "feature_layers": [-2], "text": LLM}
    vlm = make_vlm(vision=TOWERS[tower], **given | options)
    vlm.set_attn_implementation("eager")
    return vlm


def prompt(vlm, n_text: int = N_TEXT, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    asked = torch.randint(5, 60, (1, n_text), generator=generator)
    ids = torch.cat([torch.full((1, vlm.compressor.n_input_tokens), IMAGE), asked], dim=1)
    given = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 32, 32, generator=generator)}
    return given | ({"question_ids": asked, "question_mask": torch.ones_like(asked)} if vlm.reads_question else {})


# --------------------------------------------------------------------------- what the tower hands over


@pytest.mark.parametrize("layer", [-1, -2, 1, 3])
@pytest.mark.parametrize("tower", ["clip", "siglip"])
@torch.no_grad()
def test_importance_and_keys_are_those_of_the_layer_that_makes_the_patches(make_vlm, tower, layer):
    vision_tower = make(make_vlm, tower, "visionzip").vision_tower
    pixels = torch.randn(2, 3, 32, 32)
    with watched(vision_tower, layer=layer) as watch:
        patch_features(vision_tower, pixels, layers=[layer])
    importance, keys = watch.read(N_PATCHES)
    outputs = vision_tower(pixels, output_attentions=True, output_hidden_states=True)
    place = (layer + 4 if layer < 0 else layer) - 1  # of three layers; hidden state 0 is the embeddings
    attention_BHNN = outputs.attentions[place]
    expected = attention_BHNN[:, :, 0, 1:].mean(1) if tower == "clip" else attention_BHNN.mean(dim=(1, 2))
    torch.testing.assert_close(importance, expected)
    block = next(m for n, m in vision_tower.named_modules() if n.endswith(f"layers.{place}"))
    by_hand = block.self_attn.k_proj(block.layer_norm1(outputs.hidden_states[place]))[:, -N_PATCHES:]
    torch.testing.assert_close(keys, by_hand.unflatten(-1, (2, 8)).mean(dim=2))


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("name", ["prumerge", "prumerge_plus", "visionzip", "tome", "divprune"])
@torch.no_grad()
def test_the_model_hands_over_what_its_compressor_compares_by(make_vlm, tower, name):
    vlm = make(make_vlm, tower, name)
    pixels = torch.randn(2, 3, 32, 32)
    patches, class_token = patch_and_class_features(vlm.vision_tower, pixels, layers=[-2])
    assert (class_token is None) == (tower != "clip")
    if tower == "conv":
        importance, keys = received_attention(patches), None
    else:
        with watched(vlm.vision_tower, layer=-2, whole=name.startswith("prumerge")) as watch:
            vlm.vision_tower(pixels)
        importance, keys = watch.read(N_PATCHES)
    keys = vlm.projector(patches) if name == "divprune" else keys
    expected = vlm.projector(vlm.compressor(patches, importance_BP=importance, keys_BPH=keys, class_BK=class_token))
    torch.testing.assert_close(vlm.visual_tokens(vlm.encode_images(pixels)), expected)


def golden_tower(make_vlm, name, compressor, n_tokens):
    """A model on the CLIP tower whose weights released code was run with."""
    g = golden(name)
    config = CLIPVisionConfig(**{key: value for key, value in g.meta["tower"].items() if key != "model_type"})
    options = {"compressor": compressor, "n_visual_tokens": n_tokens, "feature_layers": [-2], "text": LLM}
    vlm = make_vlm(vision=config, **options)
    names = {key.removeprefix("vision_tower.").removeprefix("vision_model."): key for key in g.weights}
    vlm.vision_tower.load_state_dict({name: g.weights[key] for name, key in names.items()}, strict=False)
    seen = vlm.encode_images(g.inputs["pixel_values"])
    torch.testing.assert_close(seen.patches, g.inputs["hidden"][:, 1:], rtol=0, atol=1e-5)
    tokens = vlm.compressor(seen.patches, importance_BP=seen.importance, keys_BPH=seen.keys, class_BK=seen.class_token)
    return tokens, g


@torch.no_grad()
def test_prumerge_reads_the_tower_as_released(make_vlm):
    """From pixels: the last layer's attention, all channels as one head."""
    for n_chosen in (4, 16, 36):
        tokens, g = golden_tower(make_vlm, "prumerge_g12", "prumerge", n_chosen + 1)
        torch.testing.assert_close(tokens, g.outputs[f"prumerge_V{n_chosen}"], rtol=0, atol=1e-5)
    tokens, g = golden_tower(make_vlm, "prumerge_g12", "prumerge_plus", 37)
    torch.testing.assert_close(tokens, g.outputs["plus_training"], rtol=0, atol=1e-5)


@torch.no_grad()
def test_visionzip_reads_the_tower_as_released(make_vlm):
    """From pixels: the class token is the first of its tokens."""
    for n_tokens in (64, 16):
        tokens, g = golden_tower(make_vlm, "visionzip_g12", "visionzip", n_tokens)
        torch.testing.assert_close(tokens, g.outputs[f"tokens_V{n_tokens}"], rtol=0, atol=1e-5)


@torch.no_grad()
def test_cached_patches_need_the_towers_attention_beside_them(make_vlm):
    vlm = make(make_vlm, "clip", "visionzip")
    given = prompt(vlm)
    expected = vlm(**given).logits
    seen = vlm.encode_images(given.pop("pixel_values"))
    torch.testing.assert_close(vlm(**given, images=seen).logits, expected)
    torch.testing.assert_close(vlm(**given, **seen.tensors()).logits, expected)
    with pytest.raises(ValueError, match="reads the tower's attention, which cached patches do not hold"):
        vlm(**given, patches=seen.patches)


def test_a_tower_that_names_no_projections_is_an_error(make_vlm):
    vlm = make(make_vlm, "clip", "visionzip")
    for _, module in list(vlm.vision_tower.named_modules()):
        if "q_proj" in module._modules:
            module._modules["fused"] = module._modules.pop("q_proj")
    with pytest.raises(UserError, match="found no query and key projections"):
        vlm.encode_images(torch.randn(1, 3, 32, 32))


# --------------------------------------------------------------------------- what it costs


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("name", [name for name in NAMES if not issubclass(COMPRESSORS[name], InsideLlm)])
@torch.no_grad()
def test_flops_are_those_that_torch_counts(make_vlm, tower, name):
    vlm = make(make_vlm, tower, name)
    with FlopCounterMode(display=False) as counter:
        vlm(**prompt(vlm), logits_to_keep=1, use_cache=False)
    flops = inference_flops(vlm, n_text_tokens=N_TEXT)
    assert flops.all == counter.get_total_flops()
    assert flops.question_pass == 0


# --------------------------------------------------------------------------- inside the LLM


def by_taking_out(vlm, given, *, after: int, n_kept: int) -> torch.Tensor:
    """The last token's logits of one prompt, the unchosen image tokens really gone after layer `after`."""
    decoder = vlm.language_model.base_model
    states = vlm.embed(given["input_ids"], ImageInputs(pixel_values=given["pixel_values"]))
    places = torch.arange(states.shape[1])[None]
    for number, layer in enumerate(decoder.layers):
        n_tokens = states.shape[1]
        mask = torch.full((n_tokens, n_tokens), torch.finfo(states.dtype).min).triu(1)[None, None]
        shown = {}
        hook = layer.self_attn.register_forward_hook(lambda _m, _i, out, shown=shown: shown.update(weights=out[1]))
        turned = decoder.rotary_emb(states, places)
        states = layer(states, attention_mask=mask, position_ids=places, position_embeddings=turned)
        hook.remove()
        if number == after - 1:
            looks = shown["weights"].mean(dim=1)[0, -1, :N_PATCHES]
            kept = sorted(looks.topk(n_kept).indices.tolist()) + list(range(N_PATCHES, n_tokens))
            states, places = states[:, kept], places[:, kept]
    return vlm.get_output_embeddings()(decoder.norm(states)[:, -1])


@pytest.mark.parametrize(("after", "n_kept"), [(1, 5), (2, 1), (2, 12)])
@torch.no_grad()
def test_fastv_equals_taking_tokens_out(make_vlm, after, n_kept):
    options = {"compressor_options": {"layer": after}, "n_visual_tokens": n_kept, "position_embedding": True}
    vlm = make(make_vlm, "conv", "fastv", **options)
    given = prompt(vlm)
    with FlopCounterMode(display=False) as counter:
        expected = by_taking_out(vlm, given, after=after, n_kept=n_kept)
    torch.testing.assert_close(vlm(**given, logits_to_keep=1).logits[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert inference_flops(vlm, n_text_tokens=N_TEXT).all == counter.get_total_flops()
    whole = make(make_vlm, "conv", "fastv", **options | {"n_visual_tokens": N_PATCHES})
    assert not torch.allclose(whole(**given, logits_to_keep=1).logits[:, 0], expected, atol=1e-3)


def test_the_asking_token_is_the_questions_last():
    targets = torch.tensor([[-100, -100, 4, 5], [-100, 3, -100, -100]])
    assert asking_places(targets, None, targets.shape, "cpu").tolist() == [2, 1]
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 0]])
    assert asking_places(None, mask, mask.shape, "cpu").tolist() == [3, 2]
    assert asking_places(None, None, mask.shape, "cpu").tolist() == [3, 3]


def test_fastv_leaves_a_layer_to_read_fewer_tokens(make_vlm):
    vlm = make(make_vlm, "conv", "fastv", compressor_options={"layer": 3})
    with pytest.raises(UserError, match=r"layer is 3 and the LLM has 3 layers.*set it to 2 or less"):
        vlm(**prompt(vlm))


# --------------------------------------------------------------------------- one training, many cells


def load_cell(model, cell):
    return AutoModelForImageTextToText.from_pretrained(model, config=config_of(model, cell)).eval()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_model_of_all_patches_is_evaluated_with_it(make_vlm, tmp_path, name):
    """The weights stay; with all patches every compressor is the model itself."""
    trained = make(make_vlm, "conv", "none", n_visual_tokens=N_PATCHES)
    trained.save_pretrained(tmp_path)
    given = prompt(trained)
    for n_tokens in (N_PATCHES, 4):
        cell = MeasuredCell(size="s", n_visual_tokens=n_tokens, compressor=name, seed=0)
        vlm = load_cell(tmp_path, cell)
        assert (vlm.config.compressor, vlm.compressor.n_visual_tokens) == (name, n_tokens)
        assert {k: v.sum() for k, v in vlm.state_dict().items()} == {
            k: v.sum() for k, v in trained.state_dict().items()
        }
        logits = vlm(**prompt(vlm), logits_to_keep=1).logits
        same = torch.allclose(logits, trained(**given, logits_to_keep=1).logits, atol=1e-5)
        assert same == (n_tokens == N_PATCHES)


@torch.no_grad()
def test_an_elastic_model_is_evaluated_at_any_v(make_vlm, tmp_path):
    trained = make(make_vlm, "conv", "mqt", n_visual_tokens=N_PATCHES)
    trained.save_pretrained(tmp_path)
    for n_tokens in (1, 7, N_PATCHES):
        vlm = load_cell(tmp_path, MeasuredCell(size="s", n_visual_tokens=n_tokens, compressor="mqt", seed=0))
        assert vlm.config.n_visual_tokens == n_tokens
        expected = trained(**prompt(vlm), n_visual_tokens=n_tokens).logits
        torch.testing.assert_close(vlm(**prompt(vlm)).logits, expected)


def test_weights_that_do_not_serve_a_cell_are_refused(make_vlm, tmp_path):
    make(make_vlm, "conv", "block_linear", n_visual_tokens=4).save_pretrained(tmp_path)
    for name, n_tokens in (("block_linear", 1), ("mqt", 4), ("tome", 4)):
        cell = MeasuredCell(size="s", n_visual_tokens=n_tokens, compressor=name, seed=0)
        with pytest.raises(UserError, match=f"was trained with block_linear at V = 4.*as {name} at V = {n_tokens}"):
            load_cell(tmp_path, cell)
