"""What the miniature's images are drawn from: real handwritten digits, simple shapes, colours and real fonts."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SHAPES = ("disc", "square", "triangle", "cross", "ring", "diamond")
GLYPHS = DIGITS + SHAPES
COLORS = {
    "red": (230, 40, 40),
    "green": (40, 180, 60),
    "blue": (60, 90, 240),
    "yellow": (230, 210, 40),
    "purple": (150, 50, 190),
    "cyan": (50, 200, 220),
    "orange": (245, 140, 30),
    "white": (240, 240, 240),
}
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
FONT_FILES = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralBol.ttf",
)
# Writers' digits are split, not images of one writer's digit: the test split sees none that training has seen.
TEST_SHARE_OF_DIGITS = 0.3


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 8x8 handwritten digits of scikit-learn (UCI, Alpaydin & Kaynak 1998), grey levels in [0, 1]."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images / 16.0, bunch.target


@cache
def _digit_pool(digit: int, held_out: bool) -> np.ndarray:
    """Images of one digit, either those for training or those held out; the file's order is by writer."""
    images, targets = _digits()
    of_digit = images[targets == digit]
    cut = round(len(of_digit) * (1 - TEST_SHARE_OF_DIGITS))
    return of_digit[cut:] if held_out else of_digit[:cut]


@cache
def _shape_mask(shape: str, size_px: int) -> np.ndarray:
    """mask_HW in [0, 1] of one shape, drawn at 4x and reduced so that its edges are smooth."""
    big = 4 * size_px
    image = Image.new("L", (big, big))
    draw = ImageDraw.Draw(image)
    lo, mid, hi = big * 0.08, big / 2, big * 0.92
    if shape == "disc":
        draw.ellipse((lo, lo, hi, hi), fill=255)
    elif shape == "ring":
        draw.ellipse((lo, lo, hi, hi), outline=255, width=big // 6)
    elif shape == "square":
        draw.rectangle((big * 0.14, big * 0.14, big * 0.86, big * 0.86), fill=255)
    elif shape == "triangle":
        draw.polygon([(mid, lo), (hi, hi), (lo, hi)], fill=255)
    elif shape == "diamond":
        draw.polygon([(mid, lo), (hi, mid), (mid, hi), (lo, mid)], fill=255)
    elif shape == "cross":
        draw.rectangle((big * 0.36, lo, big * 0.64, hi), fill=255)
        draw.rectangle((lo, big * 0.36, hi, big * 0.64), fill=255)
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BOX), dtype=np.float32) / 255


def glyph_mask(glyph: int, size_px: int, *, rng: np.random.Generator, held_out: bool) -> np.ndarray:
    """mask_HW in [0, 1] of glyph number `glyph`, `size_px` square; a digit is one of many real ones, drawn by `rng`."""
    if glyph >= len(DIGITS):
        return _shape_mask(GLYPHS[glyph], size_px)
    pool = _digit_pool(glyph, held_out)
    image = Image.fromarray((pool[rng.integers(len(pool))] * 255).astype(np.uint8))
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BILINEAR), dtype=np.float32) / 255


@cache
def _font(file: str, size_px: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / file), size_px)


@cache
def letter_mask(letter: int, cell_px: int, font: int, size_px: int) -> np.ndarray:
    """mask_HW in [0, 1] of a capital letter centred in a square of `cell_px`, in font number `font`."""
    image = Image.new("L", (cell_px, cell_px))
    ImageDraw.Draw(image).text(
        (cell_px / 2, cell_px / 2), LETTERS[letter], font=_font(FONT_FILES[font], size_px), fill=255, anchor="mm"
    )
    return np.asarray(image, dtype=np.float32) / 255
