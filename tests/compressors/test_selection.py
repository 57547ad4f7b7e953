"""Training-free selection against loops over images and patches."""

import inspect
import math

import pytest
import torch
from torch import Tensor

from vlmlaw.compressors import COMPRESSORS, build_compressor, received_attention
from vlmlaw.compressors.selection import best
from vlmlaw.errors import UserError

from .cases import GRID, N_PATCHES, NAMES, QUESTION_WIDTH, WIDTH, make, make_inputs

TRAINING_FREE = [name for name in NAMES if COMPRESSORS[name].training_free]
COMPARE_KEYS = [name for name in TRAINING_FREE if "key_width" in inspect.signature(COMPRESSORS[name]).parameters]
SHARE_THE_QUESTIONS_SPACE = ("text_guided", "cdpruner")
SELECTIONS = ["fastv", "divprune", "text_guided"]
SOME_TOKENS = [1, 5, 20, 35]


def chosen(compressor, inputs) -> list[list[int]]:
    """The patches that each image keeps, from the positions."""
    _, positions_BV2 = compressor.forward_with_positions(**inputs)
    return (positions_BV2[..., 0] * GRID + positions_BV2[..., 1]).long().tolist()


@pytest.mark.parametrize("name", TRAINING_FREE)
@pytest.mark.parametrize("key_width", [None, QUESTION_WIDTH])
def test_all_tokens_are_the_patches_at_no_cost(name, key_width):
    if name in SHARE_THE_QUESTIONS_SPACE and key_width is None:
        pytest.skip("compares with questions of another width")
    options = {"key_width": key_width} if name in COMPARE_KEYS else {}
    compressor, inputs = make(name, N_PATCHES, **options), make_inputs()
    torch.testing.assert_close(compressor(**inputs), inputs["patches_BPK"][..., -WIDTH:], rtol=0, atol=0)
    assert compressor.flops(5) == 0 and compressor.n_params() == 0


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("n_tokens", SOME_TOKENS)
def test_selected_tokens_are_patches_in_raster_order(name, n_tokens):
    compressor, inputs = make(name, n_tokens), make_inputs()
    kept, visual_BVC = chosen(compressor, inputs), compressor(**inputs)
    for image in range(3):
        assert kept[image] == sorted(set(kept[image])) and len(kept[image]) == n_tokens
        torch.testing.assert_close(visual_BVC[image], inputs["patches_BPK"][image, kept[image], -WIDTH:])


def tower_like(dtype: torch.dtype) -> dict[str, Tensor]:
    """Patches on 24 x 24 that are close to their neighbours, as a tower's: their cosines differ by little."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(2, 16, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(24, 24), mode="bicubic").flatten(2).transpose(1, 2)
    return {
        "patches_BPK": (smooth + 1 + 0.1 * torch.randn(2, 576, 16, generator=generator)).to(dtype),
        "question_BTD": torch.randn(2, 6, 16, generator=generator).to(dtype),
        "importance_BP": torch.rand(2, 576, generator=generator).softmax(dim=1),
    }


CHOOSE = [name for name in TRAINING_FREE if not (COMPRESSORS[name].inside_llm or name.endswith("_at_inference"))]


@pytest.mark.parametrize("name", CHOOSE)
def test_a_choice_does_not_depend_on_the_precision_of_products(name):
    """The same numbers in bfloat16, and in float32 under autocast, choose and merge what float32 does."""
    rounded = tower_like(torch.bfloat16)
    same = {key: tensor.float() for key, tensor in rounded.items()}
    compressor = build_compressor(name, 24, 16, 64, question_width=16)
    tokens_BVC, places_BV2 = compressor.forward_with_positions(**same)
    in_half_BVC, in_half_BV2 = compressor.forward_with_positions(**rounded)
    torch.testing.assert_close(in_half_BV2, places_BV2)
    torch.testing.assert_close(in_half_BVC.float(), tokens_BVC, rtol=0.02, atol=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast_BVC, cast_BV2 = compressor.forward_with_positions(**same)
    torch.testing.assert_close(cast_BV2, places_BV2)
    torch.testing.assert_close(cast_BVC.float(), tokens_BVC, rtol=0.02, atol=0.02)


def test_equal_scores_go_to_the_earlier_patch():
    assert best(torch.tensor([[1.0, 2.0, 1.0, 2.0, 1.0]]), 3).tolist() == [[0, 1, 3]]
    assert best(torch.zeros(1, 100), 4).tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("n_tokens", SOME_TOKENS)
def test_fastv_keeps_the_most_important(n_tokens):
    inputs = make_inputs()
    kept = chosen(make("fastv", n_tokens), inputs)
    for image, importance in enumerate(inputs["importance_BP"].tolist()):
        by_importance = sorted(range(N_PATCHES), key=lambda p: -importance[p])
        assert kept[image] == sorted(by_importance[:n_tokens])


def greedy_max_min(features_PH: Tensor, n_tokens: int) -> list[int]:
    def distance(i: int, j: int) -> float:
        a, b = features_PH[i], features_PH[j]
        return 1 - float(a @ b / (a.norm() * b.norm()))

    everyone = range(len(features_PH))
    kept = [max(everyone, key=lambda i: min(distance(i, j) for j in everyone if j != i))]
    while len(kept) < n_tokens:
        left = [i for i in everyone if i not in kept]
        kept.append(max(left, key=lambda i: min(distance(i, j) for j in kept)))
    return sorted(kept)


@pytest.mark.parametrize("n_tokens", [1, 5, 20])
@pytest.mark.parametrize("key_width", [None, QUESTION_WIDTH])
def test_divprune_is_greedy_max_min(n_tokens, key_width):
    inputs = make_inputs()
    compared = inputs["patches_BPK"][..., -WIDTH:] if key_width is None else inputs["keys_BPH"]
    kept = chosen(make("divprune", n_tokens, key_width=key_width), inputs)
    assert kept == [greedy_max_min(compared[image], n_tokens) for image in range(3)]


def test_divprune_takes_one_of_each_kind():
    """Four kinds of patches, each nearly parallel within: four tokens, one of each kind."""
    kind_P = torch.arange(N_PATCHES) % 4
    noise = 0.01 * torch.randn(1, N_PATCHES, WIDTH, generator=torch.Generator().manual_seed(0))
    kept = chosen(build_compressor("divprune", GRID, WIDTH, 4), {"patches_BPK": torch.eye(WIDTH)[kind_P] + noise})
    assert sorted(int(kind_P[p]) for p in kept[0]) == [0, 1, 2, 3]


def test_divprune_keeps_distinct_patches_of_a_blank_image():
    kept = chosen(build_compressor("divprune", GRID, WIDTH, 9), {"patches_BPK": torch.ones(2, N_PATCHES, WIDTH)})
    assert all(len(set(patches)) == 9 for patches in kept)


def text_scores(question: list[Tensor], keys: list[Tensor]) -> list[float]:
    """SparseVLM's rating, token by token."""
    width = len(keys[0])
    s = [[float(q @ k) / math.sqrt(width) for k in keys] for q in question]
    shares = [0.0] * len(question)
    for p in range(len(keys)):
        total = sum(math.exp(s[t][p]) for t in range(len(question)))
        for t in range(len(question)):
            shares[t] += math.exp(s[t][p]) / total / len(keys)
    raters = [t for t in range(len(question)) if shares[t] >= sum(shares) / len(shares) - 1e-9]
    scores = [0.0] * len(keys)
    for t in raters:
        total = sum(math.exp(value) for value in s[t])
        for p in range(len(keys)):
            scores[p] += math.exp(s[t][p]) / total / len(raters)
    return scores


@pytest.mark.parametrize("n_tokens", SOME_TOKENS)
def test_text_guided_equals_a_loop(n_tokens):
    inputs = make_inputs()
    kept = chosen(make("text_guided", n_tokens), inputs)
    for image, n_question_tokens in enumerate((5, 3, 1)):
        question = list(inputs["question_BTD"][image, :n_question_tokens])
        scores = text_scores(question, list(inputs["keys_BPH"][image]))
        assert kept[image] == sorted(sorted(range(N_PATCHES), key=lambda p: -scores[p])[:n_tokens])


def test_text_guided_finds_what_the_question_names():
    inputs = make_inputs()
    inputs["question_BTD"][:, 0] = 8 * inputs["keys_BPH"][:, 17]
    assert all(17 in kept for kept in chosen(make("text_guided", 2), inputs))


def test_text_guided_counts_all_tokens_without_a_mask_and_survives_an_empty_question():
    inputs = make_inputs()
    whole = dict(inputs, question_mask_BT=torch.ones(3, 5))
    assert chosen(make("text_guided", 5), whole) == chosen(make("text_guided", 5), dict(inputs, question_mask_BT=None))
    empty = dict(inputs, question_mask_BT=torch.zeros(3, 5))
    assert chosen(make("text_guided", 5), empty) == [list(range(5))] * 3


def test_text_guided_asks_for_a_shared_space():
    with pytest.raises(UserError, match=r"compared at width 8 but questions have width 12; set key_width = 12"):
        build_compressor("text_guided", GRID, WIDTH, 4, question_width=12)
    assert build_compressor("text_guided", GRID, WIDTH, 4, question_width=WIDTH).compared_width == WIDTH


@pytest.mark.parametrize("name", COMPARE_KEYS)
def test_promised_keys_are_required(name):
    compressor, inputs = make(name, 5, key_width=QUESTION_WIDTH), make_inputs()
    with pytest.raises(UserError, match=rf"{name}.*keys: found none, expected shape \(3, 36, 12\)"):
        compressor(**dict(inputs, keys_BPH=None))
    with pytest.raises(UserError, match=r"keys: found shape \(3, 36, 11\), expected shape \(3, 36, 12\)"):
        compressor(**dict(inputs, keys_BPH=inputs["keys_BPH"][..., 1:]))


def test_received_attention_equals_a_loop():
    features = make_inputs()["keys_BPH"][:2]
    received = received_attention(features)
    torch.testing.assert_close(received.sum(dim=1), torch.ones(2))
    for image in range(2):
        expected = [0.0] * N_PATCHES
        for i in range(N_PATCHES):
            scores = [math.exp(float(features[image, i] @ x) / math.sqrt(QUESTION_WIDTH)) for x in features[image]]
            for j in range(N_PATCHES):
                expected[j] += scores[j] / sum(scores) / N_PATCHES
        torch.testing.assert_close(received[image], torch.tensor(expected))
