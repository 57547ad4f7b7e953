"""The reading suite: pages of words in real fonts, large and small, and which word stands where.

A page's words are English, the commoner ones oftener (Zipf's law), and its letters may be noisy: an LLM that remembers
how words are spelled reads more of a page than its visual tokens alone tell, as in reading of real text.
"""

import numpy as np

from vlmlaw.data.miniature.canvas import GRID_SIDE, IMAGE_PX, PATCH_PX, Picture, background, finish, place_at
from vlmlaw.data.miniature.glyphs import FONT_FILES, GLYPHS, LETTERS, letter_mask
from vlmlaw.data.miniature.words import N_LETTERS, WORDS
from vlmlaw.data.miniature.zipf import draw_rank

# Letters along a side of the page, and how many words stand on it. Together they make the number of letters that one
# visual token must carry vary in small steps, so that the suite's error falls gradually with V.
LAYOUTS = ((6, 1), (6, 2), (6, 3), (6, 4), (6, 6), (12, 8))
# Of Zipf's law: how much oftener the first word comes than the next ones. At 1 most answers are words that every size
# learns or words that none does.
WORD_EXPONENT = 0.7
NOISE_GREY_LEVELS = (4.0, 50.0)
CONTRAST_GREY_LEVELS = (60.0, 170.0)
EMPTY = -1

_NUMBERS = {word: np.array([LETTERS.index(letter) for letter in word.upper()]) for word in WORDS}


def kind_of(layout: tuple[int, int]) -> str:
    density, n_words = layout
    return f"{n_words} {'large' if density == N_LETTERS else 'small'}"


WORDS_DESCRIBED = 2  # of a page in words, at most: a whole dense page would be a caption of hundreds of words


def _page(rng: np.random.Generator, layout: tuple[int, int]) -> tuple[np.ndarray, list[tuple[int, int, str]]]:
    """letters_RC of a page, EMPTY where there is none, and its words with row and column of their first letters."""
    density, n_words = layout
    starts = [(row, column) for row in range(density) for column in range(0, density, N_LETTERS)]
    letters, words = np.full((density, density), EMPTY), []
    for index in sorted(rng.choice(len(starts), size=n_words, replace=False)):
        (row, column), word = starts[index], WORDS[draw_rank(len(WORDS), WORD_EXPONENT, rng)]
        letters[row, column : column + N_LETTERS] = _NUMBERS[word]
        words.append((row, column, word))
    return letters, words


def _place(row: int, column: int, density: int) -> str:
    cell_px = IMAGE_PX // density
    return place_at((row + 0.5) * cell_px, (column + 0.5) * cell_px)


def _ask_words(words: list[tuple[int, int, str]], layout: tuple[int, int]) -> list[tuple[str, str, str]]:
    """A question for each word, by the place of its first letter."""
    return [(kind_of(layout), f"word {_place(row, column, layout[0])}", word) for row, column, word in words]


def _ask_of_text(
    words: list[tuple[int, int, str]], layout: tuple[int, int], rng: np.random.Generator, *, n_questions: int
) -> list[tuple[str, str, str]]:
    """Different questions for words and for letters at places, as many of each as there are, at most n_questions."""
    density, kind, of_words = layout[0], kind_of(layout), _ask_words(words, layout)
    of_letters = [
        (kind, f"letter {_place(row, column + at, density)}", letter)
        for row, column, word in words
        for at, letter in enumerate(word.upper())
    ]
    n_letters = min(len(of_letters), max(n_questions // 2, n_questions - len(of_words)))
    asked = [of_letters[i] for i in rng.choice(len(of_letters), size=n_letters, replace=False)]
    n_words = min(len(of_words), n_questions - n_letters)
    asked += [of_words[i] for i in rng.choice(len(of_words), size=n_words, replace=False)]
    return [asked[i] for i in rng.permutation(len(asked))]


def describe_page(rng: np.random.Generator, *, n_questions: int) -> tuple[str, list[tuple]]:
    """Some words of a page, letter by letter, each before its place, and questions for them, for text."""
    layout = LAYOUTS[rng.integers(len(LAYOUTS))]
    _, words = _page(rng, layout)
    told = [words[i] for i in sorted(rng.permutation(len(words))[:WORDS_DESCRIBED])]
    caption = " ".join(
        f"{letter} {_place(row, column + at, layout[0])}"
        for row, column, word in told
        for at, letter in enumerate(word.upper())
    )
    return caption, _ask_of_text(told, layout, rng, n_questions=n_questions)


def draw_page(rng: np.random.Generator, *, layout: tuple[int, int], n_questions: int) -> Picture:
    """A page of that layout with questions for its words.

    Letters are asked of text alone: how well an LLM tells places apart, which its size hardly moves, would be most of
    the suite's error.
    """
    density = layout[0]
    cell_px = IMAGE_PX // density
    letters, words = _page(rng, layout)
    font, canvas = int(rng.integers(len(FONT_FILES))), background(rng, low=20, high=70)
    # Capitals are about 0.72 of the font's size high; small cells are filled, large ones vary.
    size_px = round(cell_px * (rng.uniform(0.75, 1.15) if density < GRID_SIDE else 1.2))
    empty = np.zeros((cell_px, cell_px), dtype=np.float32)
    masks = [[empty if n == EMPTY else letter_mask(int(n), cell_px, font, size_px) for n in row] for row in letters]
    canvas += rng.uniform(*CONTRAST_GREY_LEVELS) * np.block(masks)[..., None]
    asked = [_ask_words(words, layout)[i] for i in rng.permutation(len(words))[:n_questions]]
    shown = np.where(letters == EMPTY, 0, letters + 1 + len(GLYPHS))
    return Picture(
        pixels_HWC=finish(canvas, rng, noise=rng.uniform(*NOISE_GREY_LEVELS)),
        glyph_PP=np.kron(shown, np.ones((cell_px // PATCH_PX, cell_px // PATCH_PX), dtype=int)).astype(np.uint8),
        color_PP=np.zeros((GRID_SIDE, GRID_SIDE), dtype=np.uint8),
        questions=tuple(asked),
    )
