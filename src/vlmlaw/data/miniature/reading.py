"""The reading suite: pages of capital letters in real fonts at several densities, and which letter stands where."""

import numpy as np

from vlmlaw.data.miniature.canvas import GRID_SIDE, IMAGE_PX, PATCH_PX, Picture, background, finish, place_at
from vlmlaw.data.miniature.glyphs import FONT_FILES, GLYPHS, LETTERS, letter_mask

# Letters along a side of the page. Each divides the patch grid; together they make the number of letters that one
# visual token must carry vary in small steps, so that the suite's error falls gradually with V.
DENSITIES = (2, 3, 4, 6, 12)
NOISE_GREY_LEVELS = (4.0, 40.0)
CONTRAST_GREY_LEVELS = (60.0, 170.0)


def kind_of(density: int) -> str:
    return f"{density}x{density}"


LETTERS_DESCRIBED = 12  # of a page in words, at most: a whole dense page would be a caption of hundreds of words


def _letters(rng: np.random.Generator, *, density: int, n_questions: int) -> tuple[np.ndarray, dict, list[tuple]]:
    """letters_RC of a page, the word for each one's place, and questions (each letter once, as far as they last)."""
    cell_px = IMAGE_PX // density
    letters = rng.integers(len(LETTERS), size=(density, density))
    words = {(r, c): place_at((r + 0.5) * cell_px, (c + 0.5) * cell_px) for r in range(density) for c in range(density)}
    places = list(words)
    asked = rng.choice(len(places), size=n_questions, replace=len(places) < n_questions)
    questions = [(kind_of(density), f"letter {words[places[i]]}", LETTERS[letters[places[i]]]) for i in asked]
    return letters, words, questions


def describe_page(rng: np.random.Generator, *, n_questions: int) -> tuple[str, list[tuple]]:
    """Some letters of a page in words, each before its place, and questions for them, for text."""
    density = int(rng.choice(DENSITIES))
    letters, words, _ = _letters(rng, density=density, n_questions=0)
    places = list(words)
    told = [places[i] for i in sorted(rng.permutation(len(places))[:LETTERS_DESCRIBED])]
    asked = [told[i] for i in rng.integers(len(told), size=n_questions)]
    caption = " ".join(f"{LETTERS[letters[place]]} {words[place]}" for place in told)
    return caption, [(kind_of(density), f"letter {words[place]}", LETTERS[letters[place]]) for place in asked]


def draw_page(rng: np.random.Generator, *, density: int, n_questions: int) -> Picture:
    """A page of density x density letters with `n_questions` questions for the letter at a place."""
    cell_px = IMAGE_PX // density
    letters, _, questions = _letters(rng, density=density, n_questions=n_questions)
    font, canvas = int(rng.integers(len(FONT_FILES))), background(rng, low=20, high=70)
    # Capitals are about 0.72 of the font's size high; small cells are filled, large ones vary.
    size_px = round(cell_px * (rng.uniform(0.75, 1.15) if density < GRID_SIDE else 1.2))
    page = np.block([[letter_mask(int(letter), cell_px, font, size_px) for letter in row] for row in letters])
    canvas += rng.uniform(*CONTRAST_GREY_LEVELS) * page[..., None]
    glyph_PP = np.kron(letters, np.ones((cell_px // PATCH_PX, cell_px // PATCH_PX), dtype=np.int64))
    return Picture(
        pixels_HWC=finish(canvas, rng, noise=rng.uniform(*NOISE_GREY_LEVELS)),
        glyph_PP=(glyph_PP + 1 + len(GLYPHS)).astype(np.uint8),
        color_PP=np.zeros((GRID_SIDE, GRID_SIDE), dtype=np.uint8),
        questions=tuple(questions),
    )
