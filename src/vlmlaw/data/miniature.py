"""The miniature's data: picture datasets, the text that its LLMs are pretrained on, and the tokenizer of both."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vlmlaw.data.canvas import GRID_SIDE, Picture, place_word
from vlmlaw.data.glyphs import COLORS, GLYPHS, LETTERS
from vlmlaw.data.knowledge import RELATIONS, VALUES, KnowledgeBase
from vlmlaw.data.reading import DENSITIES, draw_page
from vlmlaw.data.scenes import draw_scene
from vlmlaw.data.shards import IMAGE_PLACEHOLDER, Record, ShardWriter

SPLITS = ("train", "development", "test", "text")
SUITES = ("reasoning", "reading")
# Pages up to this density are described in words; a denser one would be a caption of hundreds of words.
DENSEST_CAPTION = 4
LABELS_FILE = "patch_labels.npz"  # what each patch shows, for the encoder's training; real data has no such file

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'user' %} {% else %} <end> {% endif %}{% endfor %}"
)


def draw(split: str, suite: str, index: int, *, kb: KnowledgeBase, seed: int, n_questions: int) -> Picture:
    """Picture number `index` of a suite, a pure function of its arguments; no two splits share a random stream."""
    rng = np.random.default_rng([seed, SPLITS.index(split), SUITES.index(suite), index])
    if suite == "reasoning":
        return draw_scene(kb, rng, n_questions=n_questions, held_out=split in ("development", "test"))
    densities = [d for d in DENSITIES if split != "text" or d <= DENSEST_CAPTION]
    return draw_page(rng, density=densities[index % len(densities)], n_questions=n_questions)


def _record(picture: Picture, name: str, suite: str, *, in_words: bool) -> Record:
    kinds, questions, answers = zip(*picture.questions, strict=True)
    shown: dict[str, Any] = {"context": picture.caption} if in_words else {"image": name}
    return Record(id=name, questions=questions, answers=answers, suite=suite, kinds=kinds, **shown)


def write_pictures(
    folder: Path,
    *,
    split: str,
    n_images: int,
    n_questions: int,
    kb: KnowledgeBase,
    seed: int,
    progress: Callable[[Iterator[int]], Iterator[int]] = iter,
) -> None:
    """A dataset of n_images, the suites taking turns, with each patch's contents beside it."""
    glyphs = np.zeros((n_images, GRID_SIDE, GRID_SIDE), dtype=np.uint8)
    colors = np.zeros_like(glyphs)
    with ShardWriter(folder) as writer:
        for row in progress(iter(range(n_images))):
            index, suite = row // len(SUITES), SUITES[row % len(SUITES)]
            picture = draw(split, suite, index, kb=kb, seed=seed, n_questions=n_questions)
            name = f"{split}-{suite}-{index:06d}"
            writer.add_image(name, picture.pixels_HWC)
            writer.add_record(_record(picture, name, suite, in_words=False))
            glyphs[row], colors[row] = picture.glyph_PP, picture.color_PP
    np.savez_compressed(folder / LABELS_FILE, glyphs=glyphs, colors=colors)


def write_text(folder: Path, *, n_records: int, reading_share: float, n_questions: int, kb: KnowledgeBase, seed: int):
    """A dataset without images: pictures described in words, with questions, for the LLMs' pretraining."""
    with ShardWriter(folder) as writer:
        for index in range(n_records):
            # Spread the reading records evenly among the others.
            reading = int((index + 1) * reading_share) > int(index * reading_share)
            suite = SUITES[int(reading)]
            picture = draw("text", suite, index, kb=kb, seed=seed, n_questions=n_questions)
            writer.add_record(_record(picture, f"text-{index:06d}", suite, in_words=True))


def vocabulary() -> list[str]:
    """Every word of the miniature, special tokens first."""
    words = ["<pad>", IMAGE_PLACEHOLDER, "<end>", "<unknown>", "letter", "shape", "color", "count", "sum", "larger"]
    words += ["left", "higher", "things", "digits", "shapes", *GLYPHS, *COLORS, *LETTERS, *map(str, range(19))]
    words += [place_word(row, column) for row in range(GRID_SIDE) for column in range(GRID_SIDE)]
    return list(dict.fromkeys([*words, *RELATIONS, *VALUES]))


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
