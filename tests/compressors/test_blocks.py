"""Compressors on flattened blocks."""

import pytest
import torch
import torch.nn.functional as F

from .cases import GRID, WIDTH, fill_with_noise, make, make_inputs


@pytest.mark.parametrize("n_tokens", [1, 4, 9, 36])
def test_block_linear_starts_as_the_average(n_tokens):
    inputs = make_inputs()
    expected = make("average", n_tokens)(**inputs)
    torch.testing.assert_close(make("block_linear", n_tokens)(**inputs), expected, rtol=0, atol=0)


def test_block_linear_resets_to_the_average_and_then_learns():
    compressor, inputs = fill_with_noise(make("block_linear", 4)), make_inputs()
    expected = make("average", 4)(**inputs)
    assert not torch.allclose(compressor(**inputs), expected)
    compressor.reset_parameters()
    torch.testing.assert_close(compressor(**inputs), expected, rtol=0, atol=0)
    compressor(**inputs).square().sum().backward()
    assert compressor.linear.weight.grad.abs().sum() > 0


def test_block_linear_equals_a_loop():
    compressor, inputs = fill_with_noise(make("block_linear", 4)), make_inputs()
    visual_BVC = compressor(**inputs)
    grid = inputs["patches_BPK"][..., -WIDTH:].reshape(3, GRID, GRID, WIDTH)
    for image in range(3):
        for v, (row, column) in enumerate([(0, 0), (0, 3), (3, 0), (3, 3)]):
            block = [grid[image, row + i, column + j] for i in range(3) for j in range(3)]
            expected = sum(block) / 9 + compressor.linear.weight @ torch.cat(block) + compressor.linear.bias
            torch.testing.assert_close(visual_BVC[image, v], expected)


@pytest.mark.parametrize(("n_tokens", "n_params"), [(1, 36 * 8 * 8 + 8), (4, 9 * 8 * 8 + 8), (36, 8 * 8 + 8)])
def test_block_linear_parameters(n_tokens, n_params):
    assert make("block_linear", n_tokens).n_params() == n_params


def test_mlp_shuffle_equals_a_loop():
    compressor, inputs = fill_with_noise(make("mlp_shuffle", 9, hidden_width=5)), make_inputs()
    visual_BVC = compressor(**inputs)
    grid = inputs["patches_BPK"][..., -WIDTH:].reshape(3, GRID, GRID, WIDTH)
    for image in range(3):
        for v in range(9):
            row, column = 2 * (v // 3), 2 * (v % 3)
            flat = torch.cat([grid[image, row + i, column + j] for i in range(2) for j in range(2)])
            norm, hidden, output = compressor.norm, compressor.hidden, compressor.output
            flat = (flat - flat.mean()) / torch.sqrt(flat.var(correction=0) + 1e-5) * norm.weight + norm.bias
            expected = output.weight @ F.gelu(hidden.weight @ flat + hidden.bias) + output.bias
            torch.testing.assert_close(visual_BVC[image, v], expected, rtol=1e-5, atol=1e-6)


def test_mlp_shuffle_parameters():
    flat = 4 * WIDTH
    assert make("mlp_shuffle", 9).n_params() == 2 * flat + (flat * WIDTH + WIDTH) + (WIDTH * WIDTH + WIDTH)
    assert make("mlp_shuffle", 9, hidden_width=5).n_params() == 2 * flat + (flat * 5 + 5) + (5 * WIDTH + WIDTH)
