"""Make a picture of any shape the square that a vision tower reads, when data are prepared and in a chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlmlaw.data.image_file import as_rgb, require_size

if TYPE_CHECKING:
    from PIL.Image import Image

FITS = ("pad", "stretch", "crop")
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLIP_GREY = (122, 116, 104)  # CLIP's mean color, rounded down as LLaVA-1.5 pads; after normalisation it is about 0


def square(image: Image, side_px: int, *, fit: str, pad_color: Sequence[int]) -> Image:
    """Return the picture as an RGB square: padded, stretched, or cropped to its middle; resized bicubically.

    `pad` is LLaVA-1.5's way (Liu et al. 2023, arXiv 2310.03744), `crop` is CLIP's, `stretch` is SigLIP's.
    Raises UnreadableImage for a picture that `as_rgb` refuses, or whose padded square is larger than what is decoded.
    """
    from PIL import Image as images

    image = as_rgb(image)
    width, height = image.size
    if fit == "pad" and width != height:
        side = max(width, height)
        require_size((side, side), what="is padded to")
        canvas = images.new("RGB", (side, side), tuple(pad_color))
        canvas.paste(image, ((side - width) // 2, (side - height) // 2))
        image = canvas
    elif fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if image.size == (side_px, side_px):
        return image
    return image.resize((side_px, side_px), images.Resampling.BICUBIC)
