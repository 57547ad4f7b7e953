"""What tests of several folders share, each made once: small models and data, the practice set and its stages.

Nothing is imported before a test asks for it, so that tests of the laws start without torch.
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

N_QUESTIONS = 4
# Before torch is imported: threads that share tensors as small as these mostly wait for each other, and the workers of
# pytest have the cores already. One thread takes a sixth of the CPU seconds of two.
for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory):
    """Run all tests in an empty folder: what lies in the checkout, such as a finished study, is nothing to them."""
    with pytest.MonkeyPatch.context() as at:
        at.chdir(tmp_path_factory.mktemp("elsewhere"))
        yield


@pytest.fixture(scope="session")
def words() -> Any:
    """The miniature's tokenizer."""
    from vlmlaw.data.miniature.write import build_tokenizer

    return build_tokenizer()


@pytest.fixture(scope="session")
def make_vlm(words):
    """A function that makes a small VLM with random weights: a 4 x 4 grid of patches, an LLM of two layers."""
    import torch
    from transformers import PreTrainedConfig, Qwen2Config

    from vlmlaw.vlm.config import VlmConfig
    from vlmlaw.vlm.model import VlmForConditionalGeneration
    from vlmlaw.vlm.towers.conv_tower import ConvTowerConfig

    def make(*, vision: PreTrainedConfig | None = None, text: PreTrainedConfig | None = None, seed: int = 0, **options):
        tower = vision or ConvTowerConfig(hidden_size=16, num_hidden_layers=2, image_size=32)
        llm = text or Qwen2Config(
            vocab_size=len(words),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=48,
            tie_word_embeddings=True,
            initializer_range=0.2,
            pad_token_id=words.pad_token_id,
            eos_token_id=words.eos_token_id,
        )
        config = VlmConfig(
            vision_config=tower,
            text_config=llm,
            image_token_id=words.convert_tokens_to_ids("<image>"),
            **{"compressor": "block_linear", "n_visual_tokens": 4, "feature_layers": [2]} | options,
        )
        torch.manual_seed(seed)
        return VlmForConditionalGeneration(config).eval()

    return make


@pytest.fixture(scope="module")
def cell(tmp_path_factory, make_vlm, words) -> Path:
    """A trained cell's folder as far as an evaluation needs it: model/ and training.json."""
    from vlmlaw.vlm.towers.conv_tower import ConvTowerConfig

    folder: Path = tmp_path_factory.mktemp("cells") / "3k_v4_block_linear_s7"
    vlm = make_vlm(vision=ConvTowerConfig(hidden_size=16, num_hidden_layers=2), seed=5)
    vlm.save_pretrained(folder / "model")
    words.save_pretrained(folder / "model")
    settings = {"size": "3k", "n_visual_tokens": 4, "compressor": "block_linear", "seed": 7}
    training = {"settings": settings, "wall_seconds": 2.5, "cpu_seconds": 2.0}
    (folder / "training.json").write_text(json.dumps(training))
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory, words) -> SimpleNamespace:
    """The stages' folders of a few images: data, tokens, features by split; encoder, language_model (untrained)."""
    import torch
    from transformers import AutoModel, Qwen2ForCausalLM

    from vlmlaw.data.miniature.write import draw_split, write_corpus
    from vlmlaw.data.settings import DataSettings, TextSettings, TokenSettings
    from vlmlaw.tokens.token_table import tokenize_dataset
    from vlmlaw.training.features import cache_features
    from vlmlaw.training.language_model import qwen2_config
    from vlmlaw.training.settings import ShapeSettings
    from vlmlaw.vlm.towers.conv_tower import ConvTowerConfig

    root: Path = tmp_path_factory.mktemp("small")
    images = {"train": 12, "development": 4, "test": 8}
    settings = DataSettings(
        source="miniature",
        seed=0,
        n_relations=2,
        questions_per_image=N_QUESTIONS,
        images=images,
        text=TextSettings(records=12, reading_share=0.25),
    )
    folders = SimpleNamespace(
        root=root,
        settings=settings,
        data={split: root / "data" / split for split in (*images, "text")},
        tokens={split: root / "tokens" / f"{split}.npz" for split in (*images, "text")},
        features={split: root / "features" / split for split in images},
        encoder=root / "encoder",
        tokenizer=root / "tokenizer",
        language_model=root / "language_model",
    )
    words.save_pretrained(folders.tokenizer)
    torch.manual_seed(0)
    AutoModel.from_config(ConvTowerConfig(hidden_size=16, num_hidden_layers=2)).save_pretrained(folders.encoder)
    shape = ShapeSettings(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    config = qwen2_config(
        shape, vocab_size=len(words), pad_token_id=words.pad_token_id, eos_token_id=words.eos_token_id
    )
    Qwen2ForCausalLM(config).save_pretrained(folders.language_model)
    words.save_pretrained(folders.language_model)
    for split in images:
        draw_split(folders.data[split], split=split, settings=settings)
        cache_features(folders.encoder, folders.data[split], folders.features[split], layers=[1, 2])
    write_corpus(folders.data["text"], settings=settings)
    for split, tokens in folders.tokens.items():
        tokenize_dataset(folders.data[split], folders.tokenizer, tokens, settings=TokenSettings(independent=True))
    return folders


@pytest.fixture(scope="session")
def practice(tmp_path_factory) -> Path:
    """The folder of a practice set. Do not change it."""
    from vlmlaw.data.practice import write_practice

    folder = tmp_path_factory.mktemp("practice") / "practice"
    write_practice(folder)
    return folder


@pytest.fixture(scope="session")
def stages(practice, tmp_path_factory) -> SimpleNamespace:
    """The folders that the stages before training make of it: encoder, tokenizer, language_model, data, tokens."""
    from vlmlaw.data.llava import prepare_split
    from vlmlaw.data.settings import LlavaFile, SplitSettings, TokenSettings
    from vlmlaw.hub.settings import ModelSettings, TokenizerSettings
    from vlmlaw.tokens.token_table import tokenize_dataset
    from vlmlaw.tokens.tokenizer import take_tokenizer
    from vlmlaw.training.pretrained import fetch_language_model, fetch_vision

    root: Path = tmp_path_factory.mktemp("stages")
    model = ModelSettings(source=str(practice / "language_models" / "10k"), dtype="float32")
    tower = ModelSettings(source=str(practice / "vision"), dtype="float32")
    take_tokenizer(root / "tokenizer", settings=TokenizerSettings(model=model, chat_template="chatml"))
    fetch_vision(root / "encoder", settings=tower)
    fetch_language_model(root / "tokenizer", root / "language_model", settings=model)
    for split in ("align", "train"):
        file = LlavaFile(conversations=str(practice / f"{split}.json"), images=str(practice / "images"))
        settings = SplitSettings(files={"": file}, image_px=64, fit="pad", pad_color=(122, 116, 104))
        prepare_split(root / "data" / split, settings=settings)
        tokenize_dataset(
            root / "data" / split,
            root / "tokenizer",
            root / "tokens" / f"{split}.npz",
            settings=TokenSettings(independent=False, max_text_tokens=200),
        )
    return SimpleNamespace(
        root=root,
        encoder=root / "encoder",
        tokenizer=root / "tokenizer",
        language_model=root / "language_model",
        data={split: root / "data" / split for split in ("align", "train")},
        tokens={split: root / "tokens" / f"{split}.npz" for split in ("align", "train")},
    )
