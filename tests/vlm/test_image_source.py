"""Images as messages give them: read, or refused by name."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from vlmlaw.vlm.image_source import picture


@pytest.fixture
def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)).save(buffer, format="PNG")
    return buffer.getvalue()


def test_base64_with_or_without_its_header(png):
    text = base64.b64encode(png).decode()
    for source in (text, f"data:image/png;base64,{text}"):
        assert picture(source).size == (3, 2)


def test_a_file_by_its_path_or_url(png, tmp_path):
    path = tmp_path / "small.png"
    path.write_bytes(png)
    for source in (path, str(path), f"file://{path}"):
        assert picture(source).size == (3, 2)


@pytest.mark.parametrize("source", ["A" * 300, "no such file.png", "a\0b", "http://no host/a.png", 3])
def test_what_is_no_image_is_refused(source):
    """300 letters could be base64, and are longer than any file's name may be."""
    with pytest.raises(ValueError, match="image"):
        picture(source)
