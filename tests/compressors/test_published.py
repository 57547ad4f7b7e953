"""Published checkpoints into ours: names and shapes typed from the published modules (c = 1024, 4 levels)."""

import pytest
import torch

from vlmlaw.compressors import build_compressor, split_published
from vlmlaw.errors import UserError

C, LLM_WIDTH = 1024, 4096
ATTENTION = {
    "clip_attn.in_proj_weight": (3 * C, C),
    "clip_attn.in_proj_bias": (3 * C,),
    "clip_attn.out_proj.weight": (C, C),
    "clip_attn.out_proj.bias": (C,),
}
TOKENPACKER = {
    "q_proj_1.weight": (C, C),
    "k_proj_1.0.weight": (C, 4 * C),
    "k_proj_1.0.bias": (C,),
    "k_proj_1.2.weight": (C, C),
    "k_proj_1.2.bias": (C,),
    "v_proj_1.0.weight": (C, 4 * C),
    "v_proj_1.0.bias": (C,),
    "v_proj_1.2.weight": (C, C),
    "v_proj_1.2.bias": (C,),
    "ln_q_1.weight": (C,),
    "ln_q_1.bias": (C,),
    "ln_k_1.weight": (C,),
    "ln_k_1.bias": (C,),
    "ln_v_1.weight": (C,),
    "ln_v_1.bias": (C,),
    **ATTENTION,
    "mlp.0.weight": (LLM_WIDTH, C),
    "mlp.0.bias": (LLM_WIDTH,),
    "mlp.2.weight": (LLM_WIDTH, LLM_WIDTH),
    "mlp.2.bias": (LLM_WIDTH,),
}
QUECC = {
    "text_projection.0.weight": (C, LLM_WIDTH),
    "text_projection.0.bias": (C,),
    "text_projection.1.weight": (C,),
    "text_projection.1.bias": (C,),
    "q_proj.0.weight": (C, C),
    "q_proj.0.bias": (C,),
    "q_proj.2.weight": (C, C),
    "q_proj.2.bias": (C,),
    "q_proj.3.weight": (C,),
    "q_proj.3.bias": (C,),
    "k_proj.0.weight": (C, 4 * C),
    "k_proj.0.bias": (C,),
    "k_proj.2.weight": (C, C),
    "k_proj.2.bias": (C,),
    "k_proj.3.weight": (C,),
    "k_proj.3.bias": (C,),
    "v_proj.0.weight": (C, 4 * C),
    "v_proj.0.bias": (C,),
    "v_proj.2.weight": (C, C),
    "v_proj.2.bias": (C,),
    "v_proj.3.weight": (C,),
    "v_proj.3.bias": (C,),
    "q_downsample.weight": (C, 1, 6, 6),
    "q_downsample.bias": (C,),
    **ATTENTION,
}


def checkpoint(layout, prefix):
    """Random weights of the layout (without memory: on the meta device), among names of other modules."""
    weights = {prefix + key: torch.empty(shape, device="meta") for key, shape in layout.items()}
    return {**weights, "model.embed_tokens.weight": torch.empty(10, device="meta")}


def build(name, n_visual_tokens=16):
    with torch.device("meta"):
        return build_compressor(name, 24, C, n_visual_tokens, question_width=LLM_WIDTH, n_levels=4)


def test_tokenpacker_splits_into_compressor_and_projector():
    compressor, prefix = build("tokenpacker"), "model.mm_projector."
    weights = checkpoint(TOKENPACKER, prefix)
    own, projector = split_published(compressor, weights, prefix=prefix)
    compressor.load_state_dict(own, strict=True, assign=True)
    assert own["k_proj_1.0.weight"] is weights["model.mm_projector.k_proj_1.0.weight"]
    assert set(projector) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert projector["0.weight"] is weights["model.mm_projector.mlp.0.weight"]


def test_quecc_loads_whole():
    compressor = build("quecc")
    own, projector = split_published(compressor, checkpoint(QUECC, "compressor."), prefix="compressor.")
    compressor.load_state_dict(own, strict=True, assign=True)
    assert set(own) == set(QUECC) and not projector


def test_loaded_values_are_the_published_ones():
    """Small and with values: what goes in under a published name comes out of the state dict under ours."""
    torch.manual_seed(0)
    compressor = build_compressor("tokenpacker", 4, 8, 4, n_levels=2)
    weights = {f"p.{key}": torch.randn_like(tensor) for key, tensor in compressor.state_dict().items()}
    own, _ = split_published(compressor, weights, prefix="p.")
    compressor.load_state_dict(own)
    for key, tensor in compressor.state_dict().items():
        torch.testing.assert_close(tensor, weights[f"p.{key}"], rtol=0, atol=0)


def test_misfits_are_named():
    weights = checkpoint(QUECC, "")
    del weights["text_projection.0.bias"]
    with pytest.raises(UserError) as error:
        split_published(build("quecc", 64), weights)
    message = str(error.value)
    assert "text_projection.0.bias: missing, expected shape (1024,)" in message
    assert "model.embed_tokens.weight: unknown" in message
    assert "q_downsample.weight: found shape (1024, 1, 6, 6), expected (1024, 1, 3, 3)" in message
