"""The one decoder of image files to RGB pixels, for data sets, benchmarks, chat, processor and shards.

It decides what a file means: orientation, more than 8 bits, floats, palettes, transparency, size. An image is either
read correctly or refused by name.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmlaw.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs, twice its MAX_IMAGE_PIXELS: 537 MB as RGB
GROUND = (255, 255, 255)  # the color behind transparent pixels, as on a white page
SIXTEEN_BITS = 65535
GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N")
FORMATS_OF_16_BITS = ("PNG", "PPM")  # in which mode I holds numbers of 16 bits


class UnreadableImage(UserError):
    """Why an image cannot be used, as the end of a sentence that begins with its name: "is 16000 x 16000, ..."."""


def open_rgb(source: bytes | Path) -> Image:
    """Decode a file, or a file's content, to RGB in the orientation in which it is meant to be seen.

    Raises UnreadableImage if it cannot be decoded, is too large, or does not say what its numbers mean.
    """
    from PIL import Image as images

    try:
        with images.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            require_size(image.size)
            return as_rgb(image)
    except (UserError, MemoryError):
        raise
    except images.DecompressionBombError as error:
        raise UnreadableImage(
            f"is too large ({error}); at most {MOST_PIXELS / 1e6:,.0f} megapixels are decoded"
        ) from error
    except Exception as error:  # for a damaged file Pillow and its codecs raise errors of any kind
        failed = "read" if isinstance(error, OSError) and error.errno else "decoded"  # no such file, or no image
        raise UnreadableImage(f"cannot be {failed} ({error or type(error).__name__})") from error


def as_rgb(image: Image) -> Image:
    """Convert an opened image to RGB: its first frame, upright, with 16 bits and floats scaled to 8, and on GROUND.

    Raises UnreadableImage for floats beyond 0 to 1, and for 32-bit numbers, which do not say which number is white.

    >>> from PIL import Image
    >>> as_rgb(Image.new("I;16", (1, 1), 65535)).getpixel((0, 0))
    (255, 255, 255)
    >>> as_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(_in_8_bits(image))
    if upright.has_transparency_data:
        return _on_ground(upright)
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def require_size(size: tuple[int, int], *, what: str = "is") -> None:
    """Raise UnreadableImage for an image without pixels, or with more than are decoded."""
    width, height = size
    if not 0 < width * height <= MOST_PIXELS:
        raise UnreadableImage(
            f"{what} {width} x {height}, {width * height / 1e6:,.0f} megapixels; at most {MOST_PIXELS / 1e6:,.0f} are "
            "decoded: scale it down"
        )


def _on_ground(image: Image) -> Image:
    from PIL import Image as images

    colors = image.convert("RGBA")
    ground = images.new("RGBA", colors.size, (*GROUND, 255))
    return images.alpha_composite(ground, colors).convert("RGB")


def _in_8_bits(image: Image) -> Image:
    """Convert grey of 16 bits, and floats from 0 to 1, to grey of 8 bits; return any other image as it is."""
    if image.mode in GREY_16 or (image.mode == "I" and image.format in FORMATS_OF_16_BITS):
        values = np.asarray(image).astype(np.float64) / SIXTEEN_BITS
    elif image.mode == "F":
        values = np.asarray(image).astype(np.float64)
    elif image.mode == "I":
        raise UnreadableImage("holds 32-bit whole numbers, and does not say which is white; save it with 8 or 16 bits")
    else:
        return image
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise UnreadableImage(
            f"holds numbers from {values.min():g} to {values.max():g}; expected 0 (black) to 1 (white): scale them"
        )
    return _grey(image, values)


def _grey(image: Image, values: np.ndarray) -> Image:
    """Return values from 0 to 1 as grey of 8 bits, with the file's orientation and its transparent value."""
    from PIL import Image as images

    grey = images.fromarray(np.rint(values * 255).astype(np.uint8))
    grey.info = {key: image.info[key] for key in ("exif", "xmp", "XML:com.adobe.xmp") if key in image.info}
    grey.getexif().update(_exif(image))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        alpha = images.fromarray(np.where(np.asarray(image) == clear, 0, 255).astype(np.uint8))
        turned = grey.getexif()
        grey = images.merge("LA", (grey, alpha))
        grey.getexif().update(turned)
    return grey


def _exif(image: Image) -> Any:
    return {key: value for key, value in image.getexif().items() if key == ORIENTATION}


ORIENTATION = 0x0112  # Exif's tag
