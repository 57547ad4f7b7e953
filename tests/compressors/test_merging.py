"""Training-free merging against loops over images, tokens and pairs."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vlmlaw.compressors import build_compressor

from .cases import GRID, N_PATCHES, QUESTION_WIDTH, WIDTH, make, make_inputs

key_widths = pytest.mark.parametrize("key_width", [None, QUESTION_WIDTH])


def features(inputs, key_width: int | None) -> tuple[Tensor, Tensor]:
    """Patches and what they are compared by."""
    patches = inputs["patches_BPK"][..., -WIDTH:]
    return patches, patches if key_width is None else inputs["keys_BPH"]


def tome_by_loops(patches: Tensor, keys: Tensor, n_tokens: int) -> tuple[Tensor, Tensor]:
    """Groups of patches, merged pair by pair."""
    groups = [[p] for p in range(len(patches))]
    while len(groups) > n_tokens:
        mean_keys = [F.normalize(keys[group].mean(dim=0), dim=0) for group in groups]
        odd = range(1, len(groups), 2)
        proposals = []
        for i in range(0, len(groups), 2):
            j = max(odd, key=lambda j: float(mean_keys[i] @ mean_keys[j]))
            proposals.append((float(mean_keys[i] @ mean_keys[j]), i, j))
        n_gone = min(len(groups) - n_tokens, len(groups) // 2)
        ranked = sorted(proposals, reverse=True)
        for _, i, j in ranked[:n_gone]:
            groups[j] = groups[j] + groups[i]
        groups = [groups[i] for _, i, _ in ranked[n_gone:]] + groups[1::2]  # the released order
    row_column = torch.cartesian_prod(torch.arange(GRID), torch.arange(GRID)).float()
    tokens = torch.stack([patches[group].mean(dim=0) for group in groups])
    return tokens, torch.stack([row_column[group].mean(dim=0) for group in groups])


@key_widths
@pytest.mark.parametrize("n_tokens", [1, 2, 7, 18, 30])
def test_tome_equals_a_loop(n_tokens, key_width):
    inputs = make_inputs()
    patches, keys = features(inputs, key_width)
    visual, positions = make("tome", n_tokens, key_width=key_width).forward_with_positions(**inputs)
    for image in range(3):
        expected = tome_by_loops(patches[image], keys[image], n_tokens)
        torch.testing.assert_close((visual[image], positions[image]), expected, rtol=1e-4, atol=1e-5)


def test_tome_merged_into_one_token_is_the_mean():
    inputs = make_inputs()
    visual, positions = make("tome", 1).forward_with_positions(**inputs)
    torch.testing.assert_close(visual[:, 0], inputs["patches_BPK"][..., -WIDTH:].mean(dim=1))
    torch.testing.assert_close(positions, torch.full((3, 1, 2), (GRID - 1) / 2))


def test_tome_merges_in_the_fewest_rounds():
    assert make("tome", 7).rounds() == [(36, 18), (18, 9), (9, 2)]
    assert make("tome", 35).rounds() == [(36, 1)]
    assert make("tome", 36).rounds() == []


@key_widths
@pytest.mark.parametrize("n_tokens", [1, 7, 20, 35])
@pytest.mark.parametrize("n_neighbours", [4, 32, 100])
def test_prumerge_equals_a_loop(n_tokens, key_width, n_neighbours):
    inputs = make_inputs()
    patches, keys = features(inputs, key_width)
    compressor = make("prumerge", n_tokens, key_width=key_width, n_neighbours=n_neighbours)
    visual = compressor(**inputs)
    for image in range(3):
        importance = inputs["importance_BP"][image].tolist()
        ranked = sorted(range(N_PATCHES), key=lambda p: -importance[p])
        kept, rest = ranked[: n_tokens - 1], ranked[n_tokens - 1 :]
        last = sum(importance[j] * patches[image, j] for j in rest)
        torch.testing.assert_close(visual[image, -1], last, rtol=1e-4, atol=1e-5)
        for v, p in enumerate(kept):
            others = [j for j in range(N_PATCHES) if j != p]
            others.sort(key=lambda j: -float(F.cosine_similarity(keys[image, p], keys[image, j], dim=0)))
            expected = patches[image, p] + sum(importance[j] * patches[image, j] for j in others[:n_neighbours])
            torch.testing.assert_close(visual[image, v], expected, rtol=1e-4, atol=1e-5)


@key_widths
@pytest.mark.parametrize("n_tokens", [1, 7, 20, 35])
def test_visionzip_equals_a_loop(n_tokens, key_width):
    inputs = make_inputs()
    patches, keys = features(inputs, key_width)
    visual, positions = make("visionzip", n_tokens, key_width=key_width).forward_with_positions(**inputs)
    n_contextual = {1: 0, 7: 2, 20: 4, 35: 6}[n_tokens]
    for image in range(3):
        importance = inputs["importance_BP"][image].tolist()
        by_importance = sorted(range(N_PATCHES), key=lambda p: -importance[p])
        dominant = sorted(by_importance[: n_tokens - n_contextual])
        left = sorted(by_importance[n_tokens - n_contextual :])
        targets = [left[i * (len(left) // n_contextual)] for i in range(n_contextual)]
        gathered: dict[int, list[int]] = {t: [] for t in targets}
        for p in left:
            if targets and p not in targets:
                near = max(targets, key=lambda t: float(F.cosine_similarity(keys[image, p], keys[image, t], dim=0)))
                gathered[near].append(p)
        expected = [patches[image, p] for p in dominant]
        for target, members in gathered.items():
            mean = patches[image, members].mean(dim=0) if members else torch.zeros(WIDTH)
            expected.append(patches[image, target] + mean)
        torch.testing.assert_close(visual[image], torch.stack(expected), rtol=1e-4, atol=1e-5)
        index = (positions[image, :, 0] * GRID + positions[image, :, 1]).long().tolist()
        assert index == dominant + targets


def test_visionzip_puts_the_class_token_first_in_place_of_a_patch():
    inputs, token = make_inputs(), torch.randn(3, 2 * WIDTH)
    compressor = make("visionzip", 20)
    without = compressor(**inputs)
    visual, positions = compressor.forward_with_positions(**inputs, class_BK=token)
    assert visual.shape == without.shape
    torch.testing.assert_close(visual[:, 0], token[:, -WIDTH:], rtol=0, atol=0)
    torch.testing.assert_close(positions[:, 0], torch.full((3, 2), (GRID - 1) / 2))
    least = inputs["importance_BP"].sort(dim=1, descending=True).indices[:, 15]
    dropped = inputs["patches_BPK"][torch.arange(3), least, -WIDTH:]
    for image in range(3):  # the least important of the dominant patches made room
        assert (without[image, :16] == dropped[image]).all(dim=1).any()
        assert not (visual[image, :16] == dropped[image]).all(dim=1).any()


def test_prumerge_plus_adds_patches_spaced_evenly():
    """Half by importance, half at every eighth patch; an important one may come twice, as released."""
    compressor = build_compressor("prumerge_plus", 24, 4, 145)
    importance = torch.zeros(1, 576)
    importance[0, 4:76] = torch.arange(72.0, 0, -1)
    chosen = compressor.chosen(importance)[0].tolist()
    assert chosen[:72] == list(range(4, 76)) and chosen[72:] == list(range(4, 575, 8))


def test_visionzip_splits_as_the_paper():
    """54 + 10 and 108 + 20 tokens of 576 (arXiv 2412.04467, section 4)."""
    split = [build_compressor("visionzip", 24, 4, n_tokens).n_contextual for n_tokens in (64, 128, 192, 1)]
    assert split == [10, 20, 30, 0]


@pytest.mark.parametrize("name", ["tome", "prumerge", "visionzip", "divprune"])
def test_flops_with_keys_equal_a_counted_run(name):
    compressor, inputs = make(name, 20, key_width=QUESTION_WIDTH), make_inputs(2)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        compressor(**inputs)
    assert 2 * compressor.flops() == counter.get_total_flops() > 0
