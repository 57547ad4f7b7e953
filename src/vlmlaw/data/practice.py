"""A practice set for real experiments: tiny models with random weights, and LLaVA-style data.

Everything has the formats of the real thing (config.json, safetensors, tokenizer.json, chat template, conversations as
JSON, JPEG images), so that the whole path can be tried in minutes, without a download. The images are pieces of the two
photographs that come with scikit-learn, with a number written on each; the questions can be answered from them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from vlmlaw.data.framing import CLIP_MEAN, CLIP_STD
from vlmlaw.data.shards import IMAGE_PLACEHOLDER
from vlmlaw.runtime.whole_files import whole_folder

SIZES = {"10k": (16, 2), "50k": (32, 3)}  # width and depth of the language models
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
IMAGE_PX, PATCH_PX = 64, 16
VOCABULARY = 400
COLORS = ("red", "green", "blue")
N_ALIGN, N_TRAIN, N_TEST = 64, 96, 32
QUESTIONS = {
    "what": "What does the photograph show?",
    "color": "Which color is the strongest?",
    "number": "What number is written?",
}
KINDS = tuple(QUESTIONS)
PLAIN_TALK = "What do you need to see?", "An image, and a question about it."


def write_practice(out: Path, *, seed: int = 0, language_models: str = "qwen2", vision: str = "clip") -> None:
    """Write the practice set to the folder `out`: vision/, language_models/<size>/, images/ and JSON files.

    LANGUAGE_MODELS and TOWERS name kinds beside Qwen2 and CLIP, with features that real models may have.
    """
    rng = np.random.default_rng(seed)
    with whole_folder(out) as folder:
        images = list(_images(rng, N_ALIGN + N_TRAIN + N_TEST))
        for index, (image, _) in enumerate(images):
            path = folder / "images" / _name(index)
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, quality=95)
        facts = [known for _, known in images]
        align, train, test = (range(*ends) for ends in pairwise((0, N_ALIGN, N_ALIGN + N_TRAIN, len(images))))
        splits = {
            "align": [_captioned(index, facts[index]) for index in align],
            # Dialogues begin with any of the questions.
            "train": [*(_asking(i, facts[i], [*KINDS[i % 3 :], *KINDS[: i % 3]]) for i in train), *_text_only(8)],
            "reasoning": [_asking(index, facts[index], KINDS[:2]) for index in test],
            "reading": [_asking(index, facts[index], KINDS[2:]) for index in test],
        }
        for name, records in splits.items():
            (folder / f"{name}.json").write_text(json.dumps(records, indent=1), encoding="utf-8")
        said = [turn["value"] for records in splits.values() for row in records for turn in row["conversations"]]
        _write_models(folder, said, seed=seed, language_models=language_models, vision=vision)


def _images(rng: np.random.Generator, n_images: int) -> Iterator[tuple[Any, dict[str, str]]]:
    """Yield pieces of the photographs, and what is true of each."""
    from PIL import Image, ImageDraw
    from sklearn.datasets import load_sample_images

    sample = load_sample_images()
    photographs = dict(zip(("a temple", "a flower"), sample.images, strict=True))
    for index in range(n_images):
        what = list(photographs)[index % 2]
        whole = photographs[what]
        height, width = (int(n) for n in rng.integers(60, 200, size=2))
        top, left = (int(rng.integers(0, whole.shape[i] - n)) for i, n in enumerate((height, width)))
        image = Image.fromarray(whole[top : top + height, left : left + width])
        number = int(rng.integers(0, 3))
        ImageDraw.Draw(image).text((4, 2), str(number), fill=(255, 255, 255), font_size=40)
        mean = np.asarray(image).reshape(-1, 3).mean(axis=0)
        yield image, {"what": what, "color": COLORS[int(mean.argmax())], "number": str(number)}


def _name(index: int) -> str:
    return f"{index % 4}/{index:04d}.jpg"  # in folders, as COCO's and the others of LLaVA's mix are


def _asking(index: int, facts: dict[str, str], kinds: Sequence[str]) -> dict[str, Any]:
    """Return a dialogue with these questions about one image."""
    turns = []
    for number, kind in enumerate(kinds):
        turns.append(
            {"from": "human", "value": QUESTIONS[kind] if number else f"{IMAGE_PLACEHOLDER}\n{QUESTIONS[kind]}"}
        )
        turns.append({"from": "gpt", "value": facts[kind]})
    return {"id": f"practice-{index:04d}", "image": _name(index), "kinds": list(kinds), "conversations": turns}


def _captioned(index: int, facts: dict[str, str]) -> dict[str, Any]:
    """Return a record with one instruction and a caption, as in LLaVA's data for stage 1."""
    caption = f"{facts['what']}, mostly {facts['color']}, with the number {facts['number']}"
    asked = {"from": "human", "value": f"Describe the photograph.\n{IMAGE_PLACEHOLDER}"}
    turns = [asked, {"from": "gpt", "value": caption}]
    return {"id": f"practice-{index:04d}", "image": _name(index), "conversations": turns}


def _text_only(n_records: int) -> list[dict[str, Any]]:
    said = [{"from": who, "value": text} for who, text in zip(("human", "gpt"), PLAIN_TALK, strict=True)]
    return [{"id": f"text-{index}", "conversations": said} for index in range(n_records)]


def _write_models(folder: Path, texts: list[str], *, seed: int, language_models: str, vision: str) -> None:
    """Write a tower with its preprocessor, and language models of two sizes with a tokenizer."""
    import torch

    torch.manual_seed(seed)
    TOWERS[vision]().save_pretrained(folder / "vision")
    pixels = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    (folder / "vision" / "preprocessor_config.json").write_text(json.dumps(pixels))
    tokenizer = _tokenizer([*texts, *PLAIN_TALK])
    for size, (width, depth) in SIZES.items():
        shape = {
            "vocab_size": VOCABULARY,
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "intermediate_size": 2 * width,
            "tie_word_embeddings": True,
            "initializer_range": 0.5 * width**-0.5,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        LANGUAGE_MODELS[language_models](shape).save_pretrained(folder / "language_models" / size)
        tokenizer.save_pretrained(folder / "language_models" / size)


def _clip() -> Any:
    """Make a CLIP with its vision and text parts, as on the hub."""
    from transformers import CLIPConfig, CLIPModel

    tower = TOWER | {"image_size": IMAGE_PX, "patch_size": PATCH_PX}
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1}
    return CLIPModel(CLIPConfig(vision_config=tower, text_config=text, projection_dim=16))


def _dinov2_with_registers() -> Any:
    """Make a DINOv2 with a class token and four registers before its patches (Darcet et al. 2023, arXiv 2309.16588)."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    shape: dict[str, Any] = {name: size for name, size in TOWER.items() if name != "intermediate_size"}
    size: dict[str, Any] = {"image_size": IMAGE_PX, "patch_size": PATCH_PX, "mlp_ratio": 2}
    return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**shape, **size, num_register_tokens=4))


def _qwen2(shape: dict[str, Any]) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**shape))


def _gemma2(shape: dict[str, Any]) -> Any:
    """Make a Gemma 2, whose every other layer sees a window and whose scores and logits have soft caps."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    head = shape["hidden_size"] // shape["num_attention_heads"]
    odd: dict[str, Any] = {"sliding_window": 16, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 10.0}
    return Gemma2ForCausalLM(Gemma2Config(**shape, **odd, head_dim=head, query_pre_attn_scalar=head))


TOWERS = {"clip": _clip, "dinov2": _dinov2_with_registers}
LANGUAGE_MODELS = {"qwen2": _qwen2, "gemma2": _gemma2}


def _tokenizer(texts: list[str]) -> Any:
    """Train a byte-level BPE tokenizer like Qwen's on the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([*texts, "user assistant system\n"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=special[2], pad_token=special[0])
