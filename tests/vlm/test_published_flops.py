"""FLOPs of LLaVA-1.5-7B's shapes beside published figures, and V as methods inside the LLM count it."""

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig

from vlmlaw.vlm.config import VlmConfig
from vlmlaw.vlm.cost import inference_flops, mean_visual_tokens
from vlmlaw.vlm.model import VlmForConditionalGeneration

CLIP_L_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
VICUNA_7B = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
LEVELS = {"quecc": [12, 16, 22, 23], "tokenpacker": [12, 16, 22, 23]}
LENGTHS = {"n_text_tokens": 50, "question_tokens": 7}  # a prompt, and the question in it
# Braco (arXiv 2609.35232): TFLOPs of one answer's first token, and GFLOPs of the pass over the question.
QUECC_TFLOPS = {16: 1.36, 9: 1.26, 4: 1.20}
QUECC_PASS_GFLOPS = 92


def llava(compressor: str, n_visual_tokens: int) -> VlmForConditionalGeneration:
    with torch.device("meta"):
        return VlmForConditionalGeneration(
            VlmConfig(
                vision_config=CLIPVisionConfig(**CLIP_L_336),
                text_config=LlamaConfig(**VICUNA_7B),
                compressor=compressor,
                n_visual_tokens=n_visual_tokens,
                feature_layers=LEVELS.get(compressor, [23]),
            )
        )


@pytest.mark.parametrize("n_visual_tokens", QUECC_TFLOPS)
def test_quecc_costs_what_is_published(n_visual_tokens):
    found = inference_flops(llava("quecc", n_visual_tokens), **LENGTHS)
    assert found.all / 1e12 == pytest.approx(QUECC_TFLOPS[n_visual_tokens], rel=0.03)
    assert found.question_pass / 1e9 == pytest.approx(QUECC_PASS_GFLOPS, rel=0.03)


def test_only_the_pass_depends_on_the_questions_own_length():
    vlm = llava("quecc", 4)
    short, long = (inference_flops(vlm, n_text_tokens=50, question_tokens=q) for q in (7, 50))
    assert long.question_pass == inference_flops(vlm, n_text_tokens=50).question_pass
    assert long.all - short.all == long.question_pass - short.question_pass
    assert long.question_pass / short.question_pass == pytest.approx(50 / 7, rel=0.01)
    pooled = llava("average", 4)
    assert inference_flops(pooled, **LENGTHS) == inference_flops(pooled, n_text_tokens=50)


def test_fastv_counts_the_average_of_its_layers():
    """16 of 576 tokens kept after layer 2 of 32 are 51 on the average, 1.32 TFLOPs of the LLM, not .855."""
    vlm = llava("fastv", 16)
    assert mean_visual_tokens(vlm) == pytest.approx(51)
    found = inference_flops(vlm, **LENGTHS)
    assert found.llm / 1e12 == pytest.approx(1.32, abs=0.005)
    assert found.llm_2nt == pytest.approx(found.llm, rel=0.02)
    assert mean_visual_tokens(llava("average", 16)) == 16
    assert inference_flops(llava("average", 16), **LENGTHS).llm_2nt / 1e12 == pytest.approx(0.855, abs=0.0005)
