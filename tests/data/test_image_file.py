"""The one decoder: what a file means, held against numpy and against Pillow's own writing of each format."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from vlmlaw.data.framing import square
from vlmlaw.data.image_file import UnreadableImage, as_rgb, open_rgb
from vlmlaw.errors import UserError

RAMP = np.linspace(0, 65535, 8 * 16).reshape(8, 16)
ORIENTATION = 0x0112
# What each of Exif's orientations asks a viewer to do, in numpy's words (CIPA DC-008, 4.6.4).
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def content(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def pixels(source):
    return np.asarray(open_rgb(source)).astype(int)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["RGB", "16 bits", "float"])
def test_an_image_stands_as_its_file_says(orientation, kind):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    if kind == "RGB":
        made = np.random.default_rng(0).integers(256, size=(8, 16, 3), dtype=np.uint8)
        found = pixels(content(Image.fromarray(made), "PNG", exif=exif))
    elif kind == "16 bits":
        made = np.repeat(np.rint(RAMP / 257)[..., None], 3, axis=-1)
        found = pixels(content(Image.fromarray(RAMP.astype(np.uint16)), "PNG", exif=exif))
    else:
        made = np.repeat(np.rint(RAMP / 257)[..., None], 3, axis=-1)
        found = pixels(content(Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF", exif=exif))
    expected = TURNS[orientation](made)
    assert found.shape == expected.shape
    assert abs(found - expected).max() <= 1


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_and_not_cut(file_format):
    found = pixels(content(Image.fromarray(RAMP.astype(np.uint16)), file_format))
    assert abs(found - (RAMP / 257)[..., None]).max() <= 1  # white is 65535
    assert len(np.unique(found)) > 100


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0.0, 3.0]]), "numbers from 0 to 3; expected 0"),
        (np.array([[0.0, np.nan]]), "expected 0"),
        (np.array([[-1.0, 1.0]]), "numbers from -1 to 1"),
    ],
)
def test_floats_beyond_one_are_refused_by_name(values, message):
    with pytest.raises(UnreadableImage, match=message):
        open_rgb(content(Image.fromarray(values.astype(np.float32)), "TIFF"))


def test_whole_numbers_of_32_bits_are_refused_by_name():
    with pytest.raises(UnreadableImage, match="32-bit whole numbers"):
        open_rgb(content(Image.new("I", (2, 2), 70000), "TIFF"))


def test_what_is_transparent_shows_a_white_ground():
    half = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    half.putpixel((1, 0), (0, 0, 0, 0))  # black, were its alpha dropped
    assert pixels(content(half, "PNG")).tolist() == [[[200, 0, 0], [255, 255, 255]]]
    assert pixels(content(half, "WEBP", lossless=True))[0, 1].tolist() == [255, 255, 255]
    assert pixels(content(Image.new("RGBA", (1, 1), (0, 0, 0, 51)), "PNG")).tolist() == [[[204, 204, 204]]]
    assert pixels(content(Image.new("LA", (1, 1), (10, 0)), "PNG")).tolist() == [[[255, 255, 255]]]
    clear_16 = content(Image.fromarray(np.array([[300, 65535]], np.uint16)), "PNG", transparency=300)
    assert pixels(clear_16)[0, :, 0].tolist() == [255, 255]
    assert pixels(content(Image.new("RGB", (1, 1), (9, 9, 9)), "PNG", transparency=(9, 9, 9)))[0, 0, 0] == 255


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_palettes_give_their_colors(file_format):
    image = Image.new("P", (2, 1), 1)
    image.putpalette([0, 0, 0, 250, 10, 20])
    assert pixels(content(image, file_format))[0, 0].tolist() == [250, 10, 20]
    image.putpixel((1, 0), 0)
    assert pixels(content(image, file_format, transparency=0))[0].tolist() == [[250, 10, 20], [255, 255, 255]]


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "LAB", "PA", "RGBa", "RGBX"])
def test_every_other_mode_becomes_rgb(mode):
    assert as_rgb(Image.new(mode, (3, 2))).mode == "RGB"


def test_a_file_larger_than_the_limit_is_named_and_not_decoded():
    with pytest.raises(UnreadableImage, match=r"too large \(.*179560000 pixels.*at most 179 megapixels"):
        open_rgb(content(Image.new("1", (13400, 13400)), "PNG"))
    with pytest.raises(UnreadableImage, match="is padded to 20000 x 20000, 400 megapixels"):
        square(Image.new("RGB", (20000, 2)), 8, fit="pad", pad_color=(0, 0, 0))


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("PNG", "RGBA"), ("JPEG", "RGB"), ("GIF", "P"), ("TIFF", "I;16"), ("TIFF", "F"), ("WEBP", "RGB")],
)
def test_a_damaged_file_is_read_or_refused_and_nothing_else(kind, mode):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    options = {"exif": exif} if kind in ("PNG", "JPEG", "TIFF", "WEBP") else {}
    whole = content(Image.new(mode, (24, 24), 0 if mode == "F" else 1), kind, **options)
    rng, refused = random.Random(kind + mode), 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            damaged[rng.randrange(min(len(damaged), 400))] = rng.randrange(256)
        if rng.random() < 0.2:
            damaged = damaged[: rng.randrange(len(damaged))]
        try:
            assert open_rgb(bytes(damaged)).mode == "RGB"
        except UserError:
            refused += 1
    assert refused > 0


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    for source in (b"", b"no picture", tmp_path / "a.png"):
        with pytest.raises(UnreadableImage, match="cannot be decoded"):
            open_rgb(source)
    for source in (tmp_path / "none.png", tmp_path):
        with pytest.raises(UnreadableImage, match=r"cannot be read \(.*(No such file|Is a directory)"):
            open_rgb(source)
