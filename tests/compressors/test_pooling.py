"""Baselines against loops, and their ends."""

import pytest
import torch

from vlmlaw.compressors import build_compressor
from vlmlaw.compressors.grids import split_into_regions

from .cases import GRID, N_PATCHES, WIDTH, make, make_inputs


def patches() -> torch.Tensor:
    return make_inputs()["patches_BPK"][..., -WIDTH:]


@pytest.mark.parametrize("region_side", [1, 2, 3, 6])
def test_regions_equal_a_loop(region_side):
    regions_BVRC = split_into_regions(patches(), GRID, region_side)
    side = GRID // region_side
    for row in range(GRID):
        for column in range(GRID):
            region = (row // region_side) * side + column // region_side
            within = (row % region_side) * region_side + column % region_side
            torch.testing.assert_close(regions_BVRC[:, region, within], patches()[:, row * GRID + column])


@pytest.mark.parametrize("n_tokens", [1, 4, 9, 36])
def test_average_equals_a_loop(n_tokens):
    side = round(n_tokens**0.5)
    k = GRID // side
    visual_BVC = make("average", n_tokens)(**make_inputs())
    grid = patches().reshape(3, GRID, GRID, WIDTH)
    for row in range(side):
        for column in range(side):
            block = grid[:, row * k : (row + 1) * k, column * k : (column + 1) * k]
            torch.testing.assert_close(visual_BVC[:, row * side + column], block.mean(dim=(1, 2)))


@pytest.mark.parametrize("name", ["none", "average", "stride", "bilinear", "random"])
def test_all_tokens_are_the_patches(name):
    torch.testing.assert_close(make(name, N_PATCHES)(**make_inputs()), patches(), rtol=0, atol=0)


def test_one_token_is_the_mean():
    torch.testing.assert_close(make("average", 1)(**make_inputs())[:, 0], patches().mean(dim=1))


@pytest.mark.parametrize("name", ["stride", "random", "none"])
@pytest.mark.parametrize("n_tokens", [4, 36])
def test_selected_tokens_are_the_patches_at_their_positions(name, n_tokens):
    if name == "none" and n_tokens < N_PATCHES:
        pytest.skip("none keeps all")
    visual_BVC, positions_BV2 = make(name, n_tokens).forward_with_positions(**make_inputs())
    index_V = (positions_BV2[0, :, 0] * GRID + positions_BV2[0, :, 1]).long()
    assert index_V.tolist() == sorted(set(index_V.tolist()))
    torch.testing.assert_close(visual_BVC, patches()[:, index_V], rtol=0, atol=0)


def test_strided_sampling_takes_the_middle():
    assert make("stride", 4).positions.tolist() == [[1, 1], [1, 4], [4, 1], [4, 4]]


def test_random_selection_follows_its_seed():
    assert make("random", 9, seed=0) is not None
    chosen = [tuple(build_compressor("random", GRID, WIDTH, 9, seed=seed).kept) for seed in (0, 0, 1, 2)]
    assert chosen[0] == chosen[1] and len(set(chosen)) == 3


@pytest.mark.parametrize("n_tokens", [1, 4, 16, 25])
def test_bilinear_resize_is_exact_on_a_plane(n_tokens):
    """Of patches whose features are a + b row + c column, each token is that function of its position."""
    row, column = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    plane_PC = torch.stack([1 + 2 * row + 3 * column, 5 - row + 0 * column], dim=-1).reshape(1, -1, 2).float()
    compressor = build_compressor("bilinear", GRID, 2, n_tokens)
    at_row, at_column = compressor.positions.unbind(dim=1)
    expected = torch.stack([1 + 2 * at_row + 3 * at_column, 5 - at_row], dim=-1)
    torch.testing.assert_close(compressor(plane_PC)[0], expected)


def test_matryoshka_pooling_nests():
    """M3's coarser tokens are means of its finer ones, and each scale is average pooling."""
    compressor, inputs = make("m3", 36), make_inputs()
    tokens = {}
    for n_tokens in (1, 4, 9, 36):
        tokens[n_tokens] = compressor.with_n_visual_tokens(n_tokens)(**inputs)
        torch.testing.assert_close(tokens[n_tokens], make("average", n_tokens)(**inputs), rtol=0, atol=0)
    for fine in (4, 9, 36):
        torch.testing.assert_close(tokens[fine].mean(dim=1), tokens[1][:, 0])
