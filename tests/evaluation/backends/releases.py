"""Tiny checkpoints with random weights in the released format of each family, made with transformers' own classes.

A family whose processor needs torchvision is made only where it is installed.
"""

import importlib.util
from pathlib import Path
from typing import Any

HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None
TEXT = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "max_position_embeddings": 32768,
}
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
NO_HEAD = {"vision_use_head": False}  # of SigLIP, as released
TEMPLATE = (
    "{% for m in messages %}U:{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}"
    "{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} A:{% endif %}"
)


def tokenizer(**named: str) -> Any:
    """Byte-level BPE without merges: 256 bytes, ends, and a family's special tokens by the names it asks for."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    own = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words = PreTrainedTokenizerFast(tokenizer_object=own, eos_token="</s>", pad_token="<pad>", bos_token="<s>")
    words.add_special_tokens({"additional_special_tokens": list(dict.fromkeys(named.values()))})
    words.add_tokens([f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)], special_tokens=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=words.backend_tokenizer,
        eos_token="</s>",
        pad_token="<pad>",
        bos_token="<s>",
        extra_special_tokens=named,
    )


def _save(folder: Path, model: Any, processor: Any, image_token: str) -> Path:
    """Write it. Without an image token it is a base model, which has no chat template."""
    processor.chat_template = TEMPLATE.replace("IMAGE", image_token) if image_token else None
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _clip() -> dict[str, Any]:
    return {
        "model_type": "clip_vision_model",
        **VISION,
        "image_size": 28,
        "patch_size": 7,
        "projection_dim": 16,
    }


def _llama() -> dict[str, Any]:
    return {"model_type": "llama", **TEXT}


def make_llava(folder: Path, *, strategy: str = "default", **vision: Any) -> Path:
    """LLaVA-1.5. vision: of its CLIP tower, where it is another; strategy: whether the class token is left out."""
    from transformers import LlavaForConditionalGeneration

    words, own = tokenizer(image_token="<image>"), _clip() | vision
    processor = _llava_processor(words, own["image_size"], own["patch_size"], strategy)
    return _save(folder, LlavaForConditionalGeneration(_llava_config(words, own, strategy)), processor, "<image>")


def make_llava_interleave(folder: Path) -> Path:
    """LLaVA with SigLIP's tower, which has no class token to leave out (llava-interleave-qwen)."""
    from transformers import LlavaForConditionalGeneration, LlavaProcessor, SiglipImageProcessorPil

    words = tokenizer(image_token="<image>")
    vision = {"model_type": "siglip_vision_model", **VISION, **NO_HEAD, "image_size": 28, "patch_size": 7}
    image = SiglipImageProcessorPil(size={"height": 28, "width": 28})
    processor = LlavaProcessor(
        image, words, patch_size=7, vision_feature_select_strategy="full", num_additional_image_tokens=0
    )
    return _save(folder, LlavaForConditionalGeneration(_llava_config(words, vision, "full")), processor, "<image>")


def _llava_config(words: Any, vision: dict[str, Any], strategy: str) -> Any:
    from transformers import LlavaConfig

    return LlavaConfig(
        vision_config=vision,
        text_config=_llama(),
        image_token_id=words.image_token_id,
        vision_feature_select_strategy=strategy,
    )


def _llava_processor(words: Any, side: int = 28, patch: int = 7, strategy: str = "default") -> Any:
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    image = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return LlavaProcessor(
        image, words, patch_size=patch, vision_feature_select_strategy=strategy, num_additional_image_tokens=1
    )


def make_llava_next(folder: Path) -> Path:
    from transformers import (
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessorPil,
        LlavaNextProcessor,
    )

    words = tokenizer(image_token="<image>")
    pinpoints = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
    config = LlavaNextConfig(
        vision_config=_clip(),
        text_config=_llama(),
        image_token_id=words.image_token_id,
        image_grid_pinpoints=pinpoints,
        image_seq_length=16,
    )
    image = LlavaNextImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=pinpoints
    )
    processor = LlavaNextProcessor(
        image, words, patch_size=7, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return _save(folder, LlavaNextForConditionalGeneration(config), processor, "<image>")


def make_llava_onevision(folder: Path) -> Path:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    words = tokenizer(image_token="<image>", video_token="<video>")
    pinpoints = [[28 * r, 28 * c] for r in range(1, 7) for c in range(1, 7)]
    vision = {"model_type": "siglip_vision_model", **VISION, **NO_HEAD, "image_size": 28, "patch_size": 7}
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config={**TEXT, "model_type": "qwen2"},
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
        image_grid_pinpoints=pinpoints,
    )
    image = LlavaOnevisionImageProcessor(size={"height": 28, "width": 28}, image_grid_pinpoints=pinpoints)
    processor = LlavaOnevisionProcessor(
        image, words, LlavaOnevisionVideoProcessor(), num_image_tokens=16, vision_feature_select_strategy="full"
    )
    return _save(folder, LlavaOnevisionForConditionalGeneration(config), processor, "<image>")


def _idefics(folder: Path, *, prefix: str, **more: Any) -> Path:
    import transformers as t

    words = tokenizer(
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
    )
    vision = {**VISION, "image_size": 32, "patch_size": 8}
    config = getattr(t, f"{prefix}Config")(
        vision_config=vision,
        text_config={**TEXT, "model_type": "llama", "pad_token_id": 0},
        image_token_id=words.image_token_id,
        scale_factor=2,
    )
    image = getattr(t, f"{prefix}ImageProcessor" + ("" if more else "Pil"))(
        size={"longest_edge": 128}, max_image_size={"longest_edge": 32}
    )
    processor = getattr(t, f"{prefix}Processor")(image, words, image_seq_len=4, **more)
    return _save(folder, getattr(t, f"{prefix}ForConditionalGeneration")(config), processor, "<image>")


def make_idefics3(folder: Path) -> Path:
    return _idefics(folder, prefix="Idefics3")


def make_smolvlm(folder: Path) -> Path:
    from transformers import SmolVLMVideoProcessor

    return _idefics(folder, prefix="SmolVLM", video_processor=SmolVLMVideoProcessor())


def make_gemma3(folder: Path) -> Path:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessorPil, Gemma3Processor

    words = tokenizer(image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    config = Gemma3Config(
        text_config={**TEXT, "head_dim": 8, "sliding_window": 64},
        vision_config={**VISION, **NO_HEAD, "image_size": 32, "patch_size": 4},
        mm_tokens_per_image=16,
        image_token_id=words.image_token_id,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
    )
    processor = Gemma3Processor(Gemma3ImageProcessorPil(size={"height": 32, "width": 32}), words, image_seq_length=16)
    return _save(folder, Gemma3ForConditionalGeneration(config), processor, "<start_of_image>")


def make_paligemma(folder: Path) -> Path:
    from transformers import (
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessorPil,
    )

    words = tokenizer(image_token="<image>")
    config = PaliGemmaConfig(
        text_config={**TEXT, "model_type": "gemma", "head_dim": 8},
        vision_config={"model_type": "siglip_vision_model", **VISION, **NO_HEAD, "image_size": 28, "patch_size": 7},
        image_token_index=words.image_token_id,
        projection_dim=32,
    )
    image = SiglipImageProcessorPil(size={"height": 28, "width": 28})
    image.image_seq_length = 16
    return _save(folder, PaliGemmaForConditionalGeneration(config), PaliGemmaProcessor(image, words), "")


def make_internvl(folder: Path) -> Path:
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    words = tokenizer(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    config = InternVLConfig(
        vision_config={**VISION, "image_size": [28, 28], "patch_size": [7, 7]},
        text_config={**TEXT, "model_type": "qwen2"},
        image_token_id=words.context_image_token_id,
        image_seq_length=4,
    )
    image = GotOcr2ImageProcessor(size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=12)
    processor = InternVLProcessor(image, words, InternVLVideoProcessor(), image_seq_length=4)
    return _save(folder, InternVLForConditionalGeneration(config), processor, "<IMG_CONTEXT>")


def _qwen(folder: Path, *, prefix: str, patch_px: int, **vision: Any) -> Path:
    import transformers as t

    words = tokenizer(
        image_token="<|image_pad|>",
        video_token="<|video_pad|>",
        vision_bos_token="<|vision_start|>",
        vision_eos_token="<|vision_end|>",
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
    )
    ids = {
        "image_token_id": words.image_token_id,
        "video_token_id": words.video_token_id,
        "vision_start_token_id": words.vision_bos_token_id,
        "vision_end_token_id": words.vision_eos_token_id,
    }
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = getattr(t, f"{prefix}Config")(
        text_config={**TEXT, "head_dim": 8, "rope_parameters": rope},
        vision_config={"patch_size": patch_px, **vision},
        **ids,
    )
    pixels = {"shortest_edge": 4 * (2 * patch_px) ** 2, "longest_edge": 64 * (2 * patch_px) ** 2}
    image = t.Qwen2VLImageProcessor(size=pixels, patch_size=patch_px)
    video = t.Qwen3VLVideoProcessor() if prefix == "Qwen3VL" else t.Qwen2VLVideoProcessor()
    processor = getattr(t, f"{prefix}Processor")(image, words, video)
    model = getattr(t, f"{prefix}ForConditionalGeneration")(config)
    return _save(folder, model, processor, "<|vision_start|><|image_pad|><|vision_end|>")


def make_qwen2_vl(folder: Path) -> Path:
    return _qwen(folder, prefix="Qwen2VL", patch_px=14, depth=2, embed_dim=16, hidden_size=32, num_heads=2, mlp_ratio=2)


def make_qwen2_5_vl(folder: Path) -> Path:
    vision = {"depth": 2, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 24}
    return _qwen(folder, prefix="Qwen2_5_VL", patch_px=14, fullatt_block_indexes=[1], **vision)


def make_qwen3_vl(folder: Path) -> Path:
    vision = {"depth": 2, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 24}
    return _qwen(folder, prefix="Qwen3VL", patch_px=16, deepstack_visual_indexes=[0], **vision)


def make_mistral3(folder: Path) -> Path:
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration, PixtralImageProcessor, PixtralProcessor

    words = tokenizer(image_token="[IMG]", image_break_token="[IMG_BREAK]", image_end_token="[IMG_END]")
    config = Mistral3Config(
        vision_config={"model_type": "pixtral", **VISION, "image_size": 64, "patch_size": 4, "head_dim": 8},
        text_config={**TEXT, "model_type": "mistral", "head_dim": 8},
        image_token_id=words.image_token_id,
        spatial_merge_size=2,
    )
    image = PixtralImageProcessor(size={"longest_edge": 64}, patch_size={"height": 4, "width": 4})
    processor = PixtralProcessor(image, words, patch_size=4, spatial_merge_size=2)
    return _save(folder, Mistral3ForConditionalGeneration(config), processor, "[IMG]")


def make_lfm2_vl(folder: Path) -> Path:
    from transformers import Lfm2VlConfig, Lfm2VlForConditionalGeneration, Lfm2VlImageProcessor, Lfm2VlProcessor

    words = tokenizer(
        image_token="<image>",
        image_start_token="<|image_start|>",
        image_end_token="<|image_end|>",
        image_thumbnail_token="<|img_thumbnail|>",
    )
    text = {key: TEXT[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")}
    config = Lfm2VlConfig(
        vision_config={"model_type": "siglip2_vision_model", **VISION, **NO_HEAD, "patch_size": 4, "num_patches": 16},
        text_config={
            "model_type": "lfm2",
            **text,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "layer_types": ["conv", "full_attention"],
        },
        image_token_id=words.image_token_id,
        projector_hidden_size=32,
    )
    image = Lfm2VlImageProcessor(
        encoder_patch_size=4, tile_size=32, min_image_tokens=4, max_image_tokens=16, max_tiles=6, max_num_patches=64
    )
    return _save(folder, Lfm2VlForConditionalGeneration(config), Lfm2VlProcessor(image, words), "<image>")


def make_vipllava(folder: Path) -> Path:
    from transformers import VipLlavaConfig, VipLlavaForConditionalGeneration

    words = tokenizer(image_token="<image>")
    config = VipLlavaConfig(
        vision_config=_clip(),
        text_config=_llama(),
        image_token_index=words.image_token_id,
        image_seq_length=16,
        vision_feature_layers=[-2, -1],
    )
    processor = _llava_processor(words)
    return _save(folder, VipLlavaForConditionalGeneration(config), processor, "<image>")


def make_aya_vision(folder: Path) -> Path:
    from transformers import (
        AyaVisionConfig,
        AyaVisionForConditionalGeneration,
        AyaVisionProcessor,
        GotOcr2ImageProcessor,
    )

    words = tokenizer(
        image_token="<image>",
        start="<|START_OF_IMG|>",
        end="<|END_OF_IMG|>",
        patch="<|IMG_PATCH|>",
        line="<|IMG_LINE_BREAK|>",
    )
    config = AyaVisionConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION, **NO_HEAD, "image_size": 28, "patch_size": 7},
        text_config={**TEXT, "model_type": "cohere2", "head_dim": 8},
        image_token_id=words.convert_tokens_to_ids("<|IMG_PATCH|>"),
        downsample_factor=2,
        adapter_layer_norm_eps=1e-6,
    )
    image = GotOcr2ImageProcessor(size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=12)
    processor = AyaVisionProcessor(image, words, patch_size=7, img_size=28, downsample_factor=2)
    return _save(folder, AyaVisionForConditionalGeneration(config), processor, "<image>")


WITHOUT_TORCHVISION = {
    "llava": make_llava,
    "llava_next": make_llava_next,
    "idefics3": make_idefics3,
    "gemma3": make_gemma3,
    "paligemma": make_paligemma,
}
WITH_TORCHVISION = {
    "llava_onevision": make_llava_onevision,
    "smolvlm": make_smolvlm,
    "internvl": make_internvl,
    "qwen2_vl": make_qwen2_vl,
    "qwen2_5_vl": make_qwen2_5_vl,
    "qwen3_vl": make_qwen3_vl,
    "mistral3": make_mistral3,
    "lfm2_vl": make_lfm2_vl,
    "aya_vision": make_aya_vision,
    "vipllava": make_vipllava,  # it needs none, but is LLaVA-1.5's all but for its connector
}
MAKERS = {**WITHOUT_TORCHVISION, **(WITH_TORCHVISION if HAS_TORCHVISION else {})}
