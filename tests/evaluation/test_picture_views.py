"""What is drawn over a picture is what the compressor kept or made a token of."""

import pytest
import torch

from vlmlaw.compressors import COMPRESSORS, build_compressor
from vlmlaw.evaluation.picture_views import what_is_seen

SIDE, WIDTH = 4, 8


def built(name, v):
    options = {"layer": 1} if "layer" in COMPRESSORS[name].option_names() else {}
    return build_compressor(name, SIDE, WIDTH, v, question_width=WIDTH, **options)


def test_the_cells_of_pooling_cover_the_picture():
    (seen,) = what_is_seen(built("average", 4))
    assert seen == {"side": 4, "how": "cells", "places": [[0.5, 0.5], [0.5, 2.5], [2.5, 0.5], [2.5, 2.5]]}
    (whole,) = what_is_seen(built("average", 1))
    assert whole["places"] == [[1.5, 1.5]]


def test_the_patches_that_are_drawn_are_those_that_the_model_is_given():
    """A patch holds its own number, so the tokens say which were kept, whatever the compressor says of places."""
    compressor = built("fastervlm", 3)
    patches = torch.arange(SIDE**2, dtype=torch.float32)[None, :, None].expand(2, -1, WIDTH)
    importance = torch.rand(2, SIDE**2, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    tokens, positions = compressor.forward_with_positions(patches, importance_BP=importance)
    for kept, seen in zip(tokens[..., 0].int().tolist(), what_is_seen(compressor, positions), strict=True):
        assert seen["how"] == "patches"
        assert [int(row) * SIDE + int(column) for row, column in seen["places"]] == kept


def test_merged_tokens_are_points_within_the_picture():
    compressor = built("tome", 6)
    patches = torch.randn(1, SIDE**2, WIDTH, generator=torch.Generator().manual_seed(1))
    _, positions = compressor.forward_with_positions(patches, keys_BPH=patches)
    (seen,) = what_is_seen(compressor, positions)
    assert seen["how"] == "points" and len(seen["places"]) == 6
    assert all(0 <= x <= SIDE - 1 for place in seen["places"] for x in place)


@pytest.mark.parametrize("name", sorted(COMPRESSORS))
def test_every_compressor_says_something_that_can_be_drawn(name):
    compressor = built(name, COMPRESSORS[name].allowed_tokens(SIDE)[0])
    (seen,) = what_is_seen(compressor)
    assert seen["how"] in {"cells", "points", "inside", "none"}
    assert (seen["how"] == "inside") == compressor.inside_llm
    assert len(seen["places"]) in (0, compressor.n_visual_tokens)
