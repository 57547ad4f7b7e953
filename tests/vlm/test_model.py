"""The VLM: what is saved comes back, generation equals whole passes, losses and gradients are the usual ones."""

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    Qwen2Config,
    Qwen3Config,
    SiglipVisionConfig,
)

from vlmlaw.vlm.config import VlmConfig
from vlmlaw.vlm.image_inputs import ImageInputs
from vlmlaw.vlm.model import VlmForConditionalGeneration
from vlmlaw.vlm.projector import PlaceEmbedding

IMAGE, PAD = 1, 0
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
CLIP = CLIPVisionConfig(**TINY, image_size=32, patch_size=8)
SIGLIP = SiglipVisionConfig(**TINY, image_size=32, patch_size=8)
QWEN3 = Qwen3Config(
    **TINY, num_key_value_heads=1, head_dim=12, vocab_size=60, tie_word_embeddings=False, pad_token_id=PAD
)
MIXTURES = {
    "conv + qwen2": {},
    "clip + qwen2": {"vision": CLIP, "feature_layers": [-2]},
    "siglip + qwen3": {"vision": SIGLIP, "text": QWEN3, "feature_layers": [-2, -1], "compressor": "tokenpacker"},
    "conv + qwen3, quecc": {"text": QWEN3, "feature_layers": [0, 1, 2], "compressor": "quecc"},
    "clip + qwen2, places": {"vision": CLIP, "feature_layers": [1], "position_embedding": True},
}


@pytest.fixture(scope="module", params=MIXTURES)
def vlm(request, make_vlm):
    return make_vlm(**MIXTURES[request.param])


def inputs(vlm, lengths=(6, 4), *, seed=0):
    """Prompts of these text lengths, each behind an image, padded on the left."""
    n_visual = vlm.config.n_visual_tokens
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((len(lengths), n_visual + max(lengths)), PAD)
    asked = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in enumerate(lengths):
        words = torch.randint(5, 60, (length,), generator=generator)
        ids[row, -length - n_visual :] = torch.cat([torch.full((n_visual,), IMAGE), words])
        asked[row, -length:] = words
    given = {
        "input_ids": ids,
        "attention_mask": (ids != PAD).long(),
        "pixel_values": torch.randn(len(lengths), 3, 32, 32, generator=generator),
    }
    if vlm.compressor.needs_question:
        given |= {"question_ids": asked, "question_mask": (asked != PAD).long()}
    return given


def row_of(given, row):
    """One row alone, its padding cut off."""
    kept = given["attention_mask"][row].bool()
    alone = {"input_ids": given["input_ids"][row, kept][None], "pixel_values": given["pixel_values"][row][None]}
    if "question_ids" in given:
        kept = given["question_mask"][row].bool()
        alone["question_ids"] = given["question_ids"][row, kept][None]
        alone["question_mask"] = torch.ones_like(alone["question_ids"])
    return alone


@torch.no_grad()
def test_what_is_saved_comes_back_bit_for_bit(vlm, tmp_path):
    vlm.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(loaded) is VlmForConditionalGeneration and not loaded.training
    for name, parameter in vlm.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter), name
    given = inputs(vlm)
    assert torch.equal(loaded(**given).logits, vlm(**given).logits)


def test_tied_embeddings_are_stored_once_and_stay_tied(vlm, tmp_path):
    vlm.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    tied = vlm.config.text_config.tie_word_embeddings
    for model in (vlm, loaded):
        head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
        assert (head is embedding) == tied
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert ("language_model.lm_head.weight" in file.keys()) != tied  # noqa: SIM118 not a mapping
        n_stored = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    assert n_stored == sum(p.numel() for p in vlm.parameters())


@torch.no_grad()
def test_generating_equals_steps_without_a_cache(vlm):
    """Greedy decoding with cache and left padding, against the argmax of whole forward passes of each row alone."""
    given = inputs(vlm)
    said = vlm.generate(**given, max_new_tokens=5, do_sample=False, eos_token_id=[], pad_token_id=PAD)
    n_prompt = given["input_ids"].shape[1]
    assert said.shape == (2, n_prompt + 5)
    for row in range(2):
        alone = row_of(given, row)
        for _ in range(5):
            next_word = vlm(**alone, use_cache=False).logits[0, -1].argmax()
            alone["input_ids"] = torch.cat([alone["input_ids"], next_word.view(1, 1)], dim=1)
        assert said[row, n_prompt:].tolist() == alone["input_ids"][0, -5:].tolist()


@torch.no_grad()
def test_the_image_matters(vlm):
    given = inputs(vlm)
    other = given | {"pixel_values": given["pixel_values"] + 1}
    assert (vlm(**given).logits[:, -1] - vlm(**other).logits[:, -1]).abs().max() > 1e-4


@torch.no_grad()
def test_labels_give_transformers_own_loss(vlm):
    given = inputs(vlm)
    labels = given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)
    labels[:, : vlm.config.n_visual_tokens + 3] = -100
    out = vlm(**given, labels=labels)
    logits = vlm(**given).logits
    expected = vlm.language_model.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1])
    torch.testing.assert_close(out.loss, expected)
    wanted = F.pad(labels[:, 1:], (0, 1), value=-100) != -100
    torch.testing.assert_close(out.logits, logits[wanted])


@torch.no_grad()
def test_last_logits_alone_are_those_of_all(vlm):
    given = inputs(vlm)
    whole = vlm(**given).logits
    torch.testing.assert_close(vlm(**given, logits_to_keep=1).logits, whole[:, -1:])
    torch.testing.assert_close(vlm(**given, logits_to_keep=torch.tensor([2, 5])).logits, whole[:, [2, 5]])


def test_gradients_reach_all_but_the_tower(make_vlm):
    for options in MIXTURES.values():
        vlm = make_vlm(**options)
        vlm.vision_tower.requires_grad_(False)
        given = inputs(vlm)
        vlm(**given, labels=given["input_ids"]).loss.backward()
        for name, parameter in vlm.named_parameters():
            moved = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
            # Zero-initialised maps hold back what lies behind them in a first step; keys' biases cancel in a softmax.
            held_back = any(part in name for part in ("in_proj_bias", "k_proj", "q_", "text_projection"))
            assert moved == (not name.startswith("vision_tower")) or held_back, name


def test_no_gradient_goes_through_the_pass_over_the_question(make_vlm):
    vlm = make_vlm(compressor="quecc")
    given = inputs(vlm)
    asked = {"question_ids": given["question_ids"], "question_mask": given["question_mask"]}
    images = ImageInputs(patches=torch.randn(2, 16, 16), **asked)
    vlm.visual_tokens(images).sum().backward()
    assert all(p.grad is None for p in vlm.language_model.parameters())
    assert all(p.grad is not None for p in vlm.compressor.text_projection.parameters())


@torch.no_grad()
def test_cached_features_stand_for_the_image(vlm):
    from vlmlaw.vlm.towers.features import patch_features

    given = inputs(vlm)
    patches = patch_features(vlm.vision_tower, given["pixel_values"], layers=vlm.config.feature_layers)
    cached = {name: value for name, value in given.items() if name != "pixel_values"} | {"patches": patches}
    assert torch.equal(vlm(**cached).logits, vlm(**given).logits)


def test_a_wrong_number_of_image_tokens_is_an_error(vlm):
    given = inputs(vlm)
    given["input_ids"][0, -1] = IMAGE
    with pytest.raises(ValueError, match=r"the text has 9 image tokens, but 2 images make 8 visual tokens \(4 each\)"):
        vlm(**given)


def test_image_tokens_without_an_image_are_an_error(vlm):
    given = inputs(vlm)
    del given["pixel_values"]
    with pytest.raises(ValueError, match="the text has 8 image tokens, but no image was given"):
        vlm(**given)


@torch.no_grad()
def test_text_alone_needs_no_image(vlm):
    words = torch.tensor([[7, 8, 9]])
    expected = vlm.language_model(input_ids=words).logits
    torch.testing.assert_close(vlm(input_ids=words).logits, expected)


@torch.no_grad()
def test_places_between_patches_are_read_bilinearly():
    torch.manual_seed(0)
    table = PlaceEmbedding(4, 3)
    grid = table.table.weight.view(4, 4, 3)
    places = torch.cat([torch.rand(1, 20, 2) * 3, torch.tensor([[[0.0, 0.0], [3.0, 3.0], [0.0, 2.5], [1.0, 2.0]]])], 1)
    expected = torch.zeros(1, 24, 3)
    for index, (row, column) in enumerate(places[0].tolist()):
        for r in range(4):
            for c in range(4):
                weight = max(0.0, 1 - abs(row - r)) * max(0.0, 1 - abs(column - c))
                expected[0, index] += weight * grid[r, c]
    torch.testing.assert_close(table(places), expected)


@torch.no_grad()
def test_a_token_of_one_patch_carries_that_patchs_embedding(make_vlm):
    vlm = make_vlm(compressor="average", n_visual_tokens=16, position_embedding=True)
    words = torch.randn(16, 32)
    vlm.places.start_from(words)
    plain = vlm.projector(torch.zeros(1, 16, 16))
    torch.testing.assert_close(vlm.visual_tokens(ImageInputs(patches=torch.zeros(1, 16, 16))), plain + words)


def test_configurations_of_the_parts_keep_their_kind(vlm, tmp_path):
    vlm.config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, VlmConfig)
    assert type(loaded.vision_config) is type(vlm.config.vision_config)
    assert type(loaded.text_config) is type(vlm.config.text_config)
    assert isinstance(loaded.text_config, (Qwen2Config, Qwen3Config))


@torch.no_grad()
@pytest.mark.parametrize("brings", ["pixels", "image tokens"])
def test_an_image_behind_a_cached_prompt_is_refused(make_vlm, brings):
    """It was ignored, so that a dialogue's second image was answered as if it were not there."""
    vlm = make_vlm()
    first = vlm(**inputs(vlm, (3, 3)), use_cache=True)
    more = {"input_ids": torch.full((2, 4), IMAGE if brings == "image tokens" else 7)}
    more |= {"pixel_values": torch.zeros(2, 3, 32, 32)} if brings == "pixels" else {}
    with pytest.raises(ValueError, match="image behind a key-value cache"):
        vlm(**more, past_key_values=first.past_key_values, use_cache=True)
    vlm(input_ids=torch.full((2, 4), 7), past_key_values=first.past_key_values, use_cache=True)
