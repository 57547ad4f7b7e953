"""Read an image as messages give it (PIL image, array, file, URL or base64) by the project's one decoder."""

from __future__ import annotations

import base64
import binascii
import os
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
from PIL import Image

from vlmlaw.data.image_file import UnreadableImage, as_rgb, open_rgb

TIMEOUT = 30  # seconds
SHOWN = 80  # characters of a source in an error message


def picture(source: Any) -> Image.Image:
    """Return the image as upright RGB. Raises ValueError with the name of a source that is no image.

    >>> picture(np.zeros((2, 3, 3), np.uint8)).size
    (3, 2)
    """
    try:
        if isinstance(source, Image.Image):
            return as_rgb(source)
        if isinstance(source, np.ndarray):
            return as_rgb(Image.fromarray(source))
        if isinstance(source, bytes | Path):
            return open_rgb(source)
        if isinstance(source, str):
            return open_rgb(_content(source))
    except UnreadableImage as error:
        raise ValueError(f"the image {str(source)[:SHOWN]} {error}") from error
    raise ValueError(
        f"found an image of type {type(source).__name__}; expected a PIL image, an array, a path, a URL or base64"
    )


def _content(source: str) -> bytes | Path:
    """Return what a text stands for: a file, or the bytes behind a URL or in base64."""
    if source.startswith(("http://", "https://")):
        try:
            with urlopen(source, timeout=TIMEOUT) as reply:
                return reply.read()
        except (OSError, HTTPException) as error:  # such as a name with blanks, or a reply that breaks off
            raise UnreadableImage(f"cannot be fetched ({error})") from error
    if source.startswith("file://"):
        return Path(source.removeprefix("file://"))
    if not source.startswith("data:") and os.path.isfile(source):  # noqa: PTH113 Path raises for a name too long
        return Path(source)
    try:
        return base64.b64decode(source.partition("base64,")[2] or source, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnreadableImage("is no file, no URL and no base64") from error
