"""The geometry that the miniature's two suites share, and what a drawn picture consists of."""

from dataclasses import dataclass

import numpy as np

IMAGE_PX = 96
PATCH_PX = 8
GRID_SIDE = IMAGE_PX // PATCH_PX


@dataclass(frozen=True)
class Picture:
    """A drawn image, what each of its patches shows, and its questions."""

    pixels_HWC: np.ndarray
    glyph_PP: np.ndarray  # what each patch shows: 0 nothing, then glyphs, then letters
    color_PP: np.ndarray  # the color of what it shows: 0 nothing, then colors
    questions: tuple[tuple[str, str, str], ...]  # (kind, question, answer)


def place_word(row: int, column: int) -> str:
    """The word for a patch, as on a chess board: `c7` is the third row's seventh patch."""
    return f"{chr(ord('a') + row)}{column + 1}"


def place_words() -> list[str]:
    """The words for all patches, in raster order."""
    return [place_word(row, column) for row in range(GRID_SIDE) for column in range(GRID_SIDE)]


def place_at(y_px: float, x_px: float) -> str:
    """The word for the patch that holds a point."""
    return place_word(int(y_px) // PATCH_PX, int(x_px) // PATCH_PX)


def background(rng: np.random.Generator, *, low: float, high: float) -> np.ndarray:
    """canvas_HWC (float, 0-255) of one random grey with a faint random slope of light across it."""
    slope_y, slope_x = rng.uniform(-12, 12, size=2)
    ramp = np.linspace(-0.5, 0.5, IMAGE_PX)
    grey_HW = rng.uniform(low, high) + slope_y * ramp[:, None] + slope_x * ramp[None, :]
    return np.repeat(grey_HW[..., None], 3, axis=2)


def finish(canvas_HWC: np.ndarray, rng: np.random.Generator, *, noise: float) -> np.ndarray:
    """pixels_HWC (uint8): the canvas with Gaussian sensor noise of standard deviation `noise` grey levels."""
    noisy = canvas_HWC + rng.standard_normal(canvas_HWC.shape, dtype=np.float32) * noise
    return np.clip(noisy, 0, 255).astype(np.uint8)
