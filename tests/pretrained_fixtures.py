"""The practice set and the stages that read it, each made once; a test module asks for them by `pytest_plugins`."""

from pathlib import Path
from types import SimpleNamespace

import pytest


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
    from vlmlaw.hub import fetch_language_model, fetch_vision
    from vlmlaw.stage_settings import LlavaFile, ModelSettings, SplitSettings, TokenizerSettings, TokenSettings
    from vlmlaw.token_table import tokenize_dataset
    from vlmlaw.tokenizers import take_tokenizer

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
