"""A picture as a data URI, small enough for a page."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

MOST_PIXELS = 224  # a side of a picture on the page
LOSSLESS_PIXELS = 128  # up to which it is kept as it is


def picture_uri(pixels_HWC: np.ndarray) -> str:
    """A picture as a data URI: as it is where it is small, else smaller and as a JPEG."""
    image, buffer = Image.fromarray(pixels_HWC), io.BytesIO()
    kind = "png" if max(image.size) <= LOSSLESS_PIXELS else "jpeg"
    image.thumbnail((MOST_PIXELS, MOST_PIXELS))
    options: dict[str, Any] = {"optimize": True} if kind == "png" else {"quality": 80}
    image.save(buffer, format=kind.upper(), **options)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()
