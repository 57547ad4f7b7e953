"""Learned queries against references with torch's own attention."""

import pytest
import torch
from torch import nn

from vlmlaw.compressors import build_compressor
from vlmlaw.compressors.queries import sine_places
from vlmlaw.errors import UserError

from .cases import N_PATCHES, QUESTION_WIDTH, WIDTH, fill_with_noise, make, make_inputs


@pytest.mark.parametrize("n_tokens", [1, 5, 36])
def test_mqt_equals_torchs_attention(n_tokens):
    compressor, inputs = fill_with_noise(make("mqt", n_tokens)), make_inputs()
    theirs = nn.MultiheadAttention(WIDTH, compressor.attn.num_heads, batch_first=True)
    theirs.load_state_dict(compressor.attn.state_dict())
    places = compressor.pos_embed  # 6 x 6 queries on 6 x 6 patches: nothing to resize
    queries = compressor.ln_q(compressor.query + places)[:n_tokens].expand(3, -1, -1)
    values = compressor.ln_v(inputs["patches_BPK"][..., -WIDTH:])
    seen = theirs(queries, compressor.ln_k(places).expand(3, -1, -1), values)[0]
    torch.testing.assert_close(compressor(**inputs), seen @ compressor.proj, rtol=1e-4, atol=1e-5)


def test_mqt_looks_at_the_same_places_whatever_the_image_shows():
    """As released: keys are places, so the tokens of a sum of images are the sum of their values' tokens."""
    compressor, inputs = fill_with_noise(make("mqt", 9)), make_inputs()
    compressor.ln_v = nn.Identity()
    patches = inputs["patches_BPK"]
    both = compressor(patches[:1] + patches[1:2]) - compressor(0 * patches[:1])
    alone = [compressor(patches[i : i + 1]) - compressor(0 * patches[:1]) for i in (0, 1)]
    torch.testing.assert_close(both, alone[0] + alone[1], rtol=1e-4, atol=1e-4)


def test_mqt_nests():
    """The first tokens are the same whatever their number."""
    compressor, inputs = fill_with_noise(make("mqt", N_PATCHES)), make_inputs()
    whole = compressor(**inputs)
    for n_tokens in (1, 2, 17):
        fewer = compressor.with_n_visual_tokens(n_tokens)
        torch.testing.assert_close(fewer(**inputs), whole[:, :n_tokens])


def test_mqt_has_as_many_queries_as_released():
    with torch.device("meta"):
        compressor = build_compressor("mqt", 24, 1024, 256, question_width=4096)
    assert compressor.query.shape == (256, 1024) and compressor.proj.shape == (1024, 4096)
    assert compressor.attn.num_heads == 16
    with pytest.raises(UserError, match="V can be any whole number from 1 to 256"):
        compressor.with_n_visual_tokens(257)
    with pytest.raises(UserError, match="mqt: width is 6"):
        build_compressor("mqt", 4, 6, 4, question_width=12)
    with pytest.raises(UserError, match="mqt: makes tokens of the LLM's width"):
        build_compressor("mqt", 4, 8, 4)


def test_mqt_starts_from_the_released_spread():
    """The released `_init_weights` gives every linear map a deviation of .02, cut off at 2: that of the output, too."""
    compressor = build_compressor("mqt", 16, 64, 16, question_width=100)
    weight = compressor.attn.out_proj.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.05) and not compressor.attn.out_proj.bias.any()
    assert compressor.query.std().item() == pytest.approx(0.02, rel=0.05)
    assert compressor.proj.std().item() == pytest.approx(0.1, rel=0.05)  # the LLM's width ** -.5
    xavier = (2 / (64 + 3 * 64)) ** 0.5  # torch's own for the three maps in one matrix
    assert compressor.attn.in_proj_weight.std().item() == pytest.approx(xavier, rel=0.05)


def test_sine_places_tell_every_place_apart():
    table = sine_places(16, 64)
    assert table.abs().max() <= 1
    assert (torch.cdist(table, table) + 10 * torch.eye(256)).min() > 0.1


def test_resampler_has_the_papers_defaults_and_can_have_places():
    compressor = make("resampler", 5)
    assert len(compressor.layers) == 6 and compressor.layers[0][0].to_q.weight.shape == (512, WIDTH)
    assert 0.7 < compressor.latents.std() < 1.3
    placed = fill_with_noise(make("resampler", 5, places=True))
    assert placed.n_params() - compressor.n_params() == N_PATCHES * WIDTH
    patches = make_inputs()["patches_BPK"]
    flipped = patches.flip(1)
    torch.testing.assert_close(compressor(patches), compressor(flipped), rtol=1e-4, atol=1e-5)  # a set of patches
    assert (placed(patches) - placed(flipped)).abs().max() > 1e-2


def test_parameters():
    c, inner = WIDTH, 512
    layer = 2 * 2 * c + 4 * inner * c + 2 * c + 2 * 4 * c * c
    assert make("resampler", 5).n_params() == 5 * c + 6 * layer + 2 * c
    for n_tokens in (1, N_PATCHES):
        expected = N_PATCHES * c + 4 * c * c + 4 * c + 3 * 2 * c + c * QUESTION_WIDTH
        assert make("mqt", n_tokens).n_params() == expected
