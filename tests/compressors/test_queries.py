"""Learned queries against references with torch's own attention and loops over queries."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cases import N_PATCHES, WIDTH, fill_with_noise, make, make_inputs


def torch_attention(module, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    theirs = nn.MultiheadAttention(WIDTH, module.num_heads, batch_first=True)
    theirs.load_state_dict(module.state_dict())
    return theirs(queries, keys, values)[0]


@pytest.mark.parametrize("n_tokens", [1, 5, 36])
def test_resampler_equals_a_reference(n_tokens):
    compressor, inputs = fill_with_noise(make("resampler", n_tokens)), make_inputs()
    visual_BVC = compressor(**inputs)
    for image in range(3):
        placed_PC = inputs["patches_BPK"][image, :, -WIDTH:] + compressor.position
        q_VC = compressor.queries
        for layer in compressor.layers:
            normed = layer.queries_norm(q_VC)
            context = torch.cat([layer.patches_norm(placed_PC), normed])
            q_VC = q_VC + torch_attention(layer.attention, normed[None], context[None], context[None])[0]
            hidden = F.gelu(layer.mlp[1].weight @ layer.mlp[0](q_VC).T + layer.mlp[1].bias[:, None])
            q_VC = q_VC + (layer.mlp[3].weight @ hidden + layer.mlp[3].bias[:, None]).T
        torch.testing.assert_close(visual_BVC[image], compressor.norm(q_VC), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_tokens", [1, 5, 36])
def test_mqt_equals_a_loop_over_queries(n_tokens):
    compressor, inputs = fill_with_noise(make("mqt", n_tokens)), make_inputs()
    visual_BVC = compressor(**inputs)
    patches_BPC = compressor.patches_norm(inputs["patches_BPK"][..., -WIDTH:] @ compressor.patches_proj.weight.T)
    for v in range(n_tokens):
        query = compressor.queries_norm(compressor.queries[v]).expand(3, 1, -1)
        seen = torch_attention(compressor.attention, query, patches_BPC + compressor.position, patches_BPC)
        expected = compressor.output_norm(seen) @ compressor.output.weight.T
        torch.testing.assert_close(visual_BVC[:, v : v + 1], expected, rtol=1e-4, atol=1e-5)


def test_mqt_nests():
    """The first tokens are the same whatever their number."""
    compressor, inputs = fill_with_noise(make("mqt", N_PATCHES)), make_inputs()
    whole = compressor(**inputs)
    for n_tokens in (1, 2, 17):
        fewer = compressor.with_n_visual_tokens(n_tokens)
        torch.testing.assert_close(fewer(**inputs), whole[:, :n_tokens])


def test_parameters():
    c, attention = WIDTH, 4 * WIDTH**2 + 4 * WIDTH
    layer = 2 * 2 * c + attention + 2 * c + (4 * c * c + 4 * c) + (4 * c * c + c)
    assert make("resampler", 5).n_params() == (5 + N_PATCHES) * c + 2 * layer + 2 * c
    assert make("resampler", 5, depth=1).n_params() == (5 + N_PATCHES) * c + layer + 2 * c
    for n_tokens in (1, N_PATCHES):
        assert make("mqt", n_tokens).n_params() == 2 * N_PATCHES * c + 2 * c * c + attention + 3 * 2 * c
