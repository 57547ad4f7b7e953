"""The miniature's data: picture datasets, the text that its LLMs are pretrained on, and the tokenizer of both."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmlaw.data.message_template import MESSAGE_CONTENT
from vlmlaw.data.miniature.canvas import GRID_SIDE, Picture, place_words
from vlmlaw.data.miniature.glyphs import COLORS, GLYPHS, LETTERS
from vlmlaw.data.miniature.knowledge import NAMES, RELATIONS, VALUES, KnowledgeBase
from vlmlaw.data.miniature.reading import LAYOUTS, describe_page, draw_page
from vlmlaw.data.miniature.scenes import describe_scene, draw_scene, thing_words
from vlmlaw.data.miniature.words import WORDS
from vlmlaw.data.shards import IMAGE_PLACEHOLDER, Record, ShardWriter
from vlmlaw.runtime.progress import progress
from vlmlaw.runtime.whole_files import whole_folder

if TYPE_CHECKING:
    from vlmlaw.data.settings import DataSettings

SPLITS = ("train", "development", "test", "text")
SUITES = ("reasoning", "reading")
LABELS_FILE = "patch_labels.npz"  # what each patch shows, for the encoder's training; real data has no such file

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    + MESSAGE_CONTENT
    + "{% if message['role'] == 'user' %} {% else %} <end> {% endif %}{% endfor %}"
)


def _stream(split: str, suite: str, index: int, seed: int) -> np.random.Generator:
    """A random stream that no other picture of any split or suite shares."""
    return np.random.default_rng([seed, SPLITS.index(split), SUITES.index(suite), index])


def draw(split: str, suite: str, index: int, *, kb: KnowledgeBase, seed: int, n_questions: int) -> Picture:
    """Picture number `index` of a suite, a pure function of its arguments."""
    rng = _stream(split, suite, index, seed)
    if suite == "reasoning":
        return draw_scene(kb, rng, n_questions=n_questions, held_out=split != "train")
    return draw_page(rng, layout=LAYOUTS[index % len(LAYOUTS)], n_questions=n_questions)


def _record(name: str, suite: str, asked: Iterable[tuple[str, str, str]], **shown: Any) -> Record:
    kinds, questions, answers = zip(*asked, strict=True)
    return Record(id=name, questions=questions, answers=answers, suite=suite, kinds=kinds, **shown)


def draw_split(out: Path, *, split: str, settings: DataSettings) -> None:
    """Write the dataset of one split to `out`: settings.images[split] pictures, the suites taking turns.

    Beside the images lies LABELS_FILE: what each of their patches shows, for the encoder's training.
    """
    kb = KnowledgeBase.draw(settings.seed, n_relations=settings.n_relations)
    n_images = settings.images[split]
    glyphs = np.zeros((n_images, GRID_SIDE, GRID_SIDE), dtype=np.uint8)
    colors = np.zeros_like(glyphs)
    # One shard, whatever n_images: the workflow names each file that a later job reads.
    with whole_folder(out) as folder, ShardWriter(folder, images_per_shard=n_images) as writer:
        for row in progress(range(n_images), n_images, f"pictures of {split}"):
            index, suite = row // len(SUITES), SUITES[row % len(SUITES)]
            picture = draw(split, suite, index, kb=kb, seed=settings.seed, n_questions=settings.questions_per_image)
            name = f"{split}-{suite}-{index:06d}"
            writer.add_image(name, picture.pixels_HWC)
            writer.add_record(_record(name, suite, picture.questions, image=name))
            glyphs[row], colors[row] = picture.glyph_PP, picture.color_PP
        np.savez_compressed(folder / LABELS_FILE, glyphs=glyphs, colors=colors)


def write_corpus(out: Path, *, settings: DataSettings) -> None:
    """Write the text that the LLMs are pretrained on to `out`: pictures described in words, with questions."""
    assert settings.text is not None
    kb = KnowledgeBase.draw(settings.seed, n_relations=settings.n_relations)
    share, n_records = settings.text.reading_share, settings.text.records
    with whole_folder(out) as folder, ShardWriter(folder) as writer:
        for index in progress(range(n_records), n_records, "text"):
            # Spread the reading records evenly among the others.
            reading = int((index + 1) * share) > int(index * share)
            suite = SUITES[int(reading)]
            rng = _stream("text", suite, index, settings.seed)
            describe = describe_page if reading else partial(describe_scene, kb)
            caption, asked = describe(rng, n_questions=settings.questions_per_image)
            writer.add_record(_record(f"text-{index:06d}", suite, asked, context=caption))


def write_tokenizer(out: Path) -> None:
    """Write the miniature's tokenizer to `out`."""
    with whole_folder(out) as folder:
        build_tokenizer().save_pretrained(folder)


def vocabulary() -> list[str]:
    """Every word of the miniature, special tokens first."""
    words = ["<pad>", IMAGE_PLACEHOLDER, "<end>", "<unknown>", "letter", "word", "shape", "count", "sum", "add"]
    words += ["larger", "things", "digits", "shapes", *GLYPHS, *COLORS, *LETTERS, *map(str, range(19))]
    return list(dict.fromkeys([*words, *place_words(), *thing_words(), *RELATIONS, "owner", *NAMES, *VALUES, *WORDS]))


def build_tokenizer() -> Any:
    """A word-level tokenizer (transformers' fast class) with the miniature's chat template."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = vocabulary()
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unknown>"))
    core.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", additional_special_tokens=[IMAGE_PLACEHOLDER]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
