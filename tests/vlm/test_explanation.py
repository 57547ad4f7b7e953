"""What explains an answer, against whole matrices of relevance made of attention that transformers returns."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen3Config

from vlmlaw.compressors import build_compressor
from vlmlaw.vlm.cost import inference_flops
from vlmlaw.vlm.pruning import pruned

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "initializer_range": 0.2,
}
N_PATCHES, N_BEFORE, N_TEXT, N_PADDING, V = 144, 3, 6, 5, 20


@pytest.fixture
def llm():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    model.set_attn_implementation("eager")
    return model


@pytest.fixture
def prompts():
    """Two prompts, the second padded on the left; padding is never zero in a model."""
    n_tokens = N_PADDING + N_BEFORE + N_PATCHES + N_TEXT
    mask, is_image = torch.ones(2, n_tokens, dtype=torch.long), torch.zeros(2, n_tokens, dtype=torch.bool)
    mask[1, :N_PADDING] = 0
    is_image[:, N_PADDING + N_BEFORE :][:, :N_PATCHES] = True
    embeds = torch.randn(2, n_tokens, 32, generator=torch.Generator().manual_seed(1))
    return {"embeds": embeds, "mask": mask, "is_image": is_image}


def relevance_by_matrices(llm, embeds, mask):
    """(B, T) by the update of Chefer et al. 2021, R = R + mean_h (A * dA)+ R from R = I, and R's last row."""
    places = (mask.cumsum(dim=1) - 1).clamp(min=0)
    outputs = llm(inputs_embeds=embeds, attention_mask=mask, position_ids=places, output_attentions=True)
    relevance = torch.eye(embeds.shape[1]).expand(len(embeds), -1, -1)
    for row in range(len(embeds)):  # each prompt's own answer
        answer = outputs.logits[row, -1, outputs.logits[row, -1].argmax()]
        gradients = torch.autograd.grad(answer, outputs.attentions, retain_graph=True)
        own = torch.eye(embeds.shape[1])
        for attention, gradient in zip(outputs.attentions, gradients, strict=True):
            own = own + (attention[row] * gradient[row]).clamp(min=0).mean(dim=0) @ own
        relevance = torch.cat([relevance[:row], own[None].detach(), relevance[row + 1 :]])
    return relevance[:, -1]


def run(llm, prompts):
    compressor = build_compressor("explained", 12, 8, V)
    mask, cache = prompts["mask"], DynamicCache(config=llm.config)
    asking = torch.full((2,), mask.shape[1] - 1)
    with pruned(llm, compressor, is_image_BT=prompts["is_image"], asking_B=asking, cache=cache):
        outputs = llm(
            inputs_embeds=prompts["embeds"],
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=cache,
        )
    return cache.vlmlaw_kept[-1].places_BS, outputs.logits


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_keeps_the_patches_of_highest_relevance(llm, prompts, context):
    expected = relevance_by_matrices(llm, prompts["embeds"], prompts["mask"])
    assert expected[1, :N_PADDING].abs().max() == 0
    with context():
        places, _ = run(llm, prompts)
    for row in range(2):
        of_image = expected[row, prompts["is_image"][row]]
        best = of_image.topk(V).indices.sort().values + N_PADDING + N_BEFORE
        kept = places[row][prompts["is_image"][row, places[row]]]
        assert torch.equal(kept, best)
    assert all(parameter.grad is None for parameter in llm.parameters())


@pytest.mark.parametrize("config", [Qwen2Config, Qwen3Config])
@torch.no_grad()
def test_flops_are_those_that_torch_counts(make_vlm, config):
    shape = SHAPE | ({"head_dim": 8} if config is Qwen3Config else {})
    text = config(**shape, pad_token_id=0)
    vlm = make_vlm(compressor="explained", n_visual_tokens=5, feature_layers=[-2], text=text)
    vlm.set_attn_implementation("eager")
    ids = torch.cat([torch.full((1, 16), 1), torch.arange(5, 12)[None]], dim=1)
    with FlopCounterMode(display=False) as counter:
        vlm(input_ids=ids, pixel_values=torch.randn(1, 3, 32, 32), logits_to_keep=1)
    flops = inference_flops(vlm, n_text_tokens=7)
    assert flops.all == counter.get_total_flops()
    assert flops.compressor > 2 * flops.llm  # no saving: a pass over all patches and back
