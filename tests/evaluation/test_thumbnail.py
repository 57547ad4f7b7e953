"""A picture on a page: exact where it is small, else smaller."""

import base64
import io

import numpy as np
from PIL import Image

from vlmlaw.evaluation.thumbnail import LOSSLESS_PIXELS, MOST_PIXELS, picture_uri


def opened(uri):
    kind, text = uri.removeprefix("data:image/").split(";base64,")
    return kind, Image.open(io.BytesIO(base64.b64decode(text)))


def test_small_pictures_are_kept_and_large_ones_made_smaller():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (LOSSLESS_PIXELS, 40, 3), dtype=np.uint8)
    kind, image = opened(picture_uri(small))
    assert kind == "png" and np.array_equal(np.asarray(image), small)
    kind, image = opened(picture_uri(rng.integers(0, 255, (600, 1200, 3), dtype=np.uint8)))
    assert kind == "jpeg" and image.size == (MOST_PIXELS, MOST_PIXELS // 2)
