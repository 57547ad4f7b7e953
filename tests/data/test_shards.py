"""The one format: what is written is read again, by this loader and by tar; what is broken is named."""

import io
import json
import re
import tarfile

import numpy as np
import pytest
from PIL import Image

from vlmlaw.data.shards import Dataset, Record, ShardWriter
from vlmlaw.errors import UserError

RECORDS = (
    Record("a", ("What?", "And?"), ("A cat.", "猫"), image="a", suite="s", kinds=("k", "l")),
    Record("b", ("How?",), ("So.",), context="a\ncontext"),
    Record("c", ("Why?",), ("Because.",), image="sub/c"),
)


def images(n, *, seed=0):
    """Images of several sizes."""
    rng = np.random.default_rng(seed)
    return [rng.integers(256, size=(8 + i, 20 - i, 3), dtype=np.uint8) for i in range(n)]


def write(folder, pictures, records=(), **options):
    with ShardWriter(folder, **options) as writer:
        for index, pixels in enumerate(pictures):
            writer.add_image(f"image-{index}", pixels)
        for record in records:
            writer.add_record(record)
    return folder


@pytest.fixture
def folder(tmp_path):
    with ShardWriter(tmp_path / "data") as writer:
        for record, pixels in zip(RECORDS, images(3), strict=True):
            writer.add_record(record)
            if record.image:
                writer.add_image(record.image, pixels)
    return tmp_path / "data"


@pytest.mark.parametrize("per_shard", [1, 2, 5, 100])
def test_images_come_back_bit_for_bit_from_any_number_of_shards(tmp_path, per_shard):
    pictures = images(5)
    data = Dataset(write(tmp_path, pictures, images_per_shard=per_shard))
    assert len(list(tmp_path.glob("images-*.tar"))) == -(-5 // per_shard)
    for row in (4, 0, 3, 1, 2):
        assert np.array_equal(data.image(row), pictures[row])
    assert [image.shape for image in data.images([1, 1])] == [pictures[1].shape] * 2


def test_any_tar_tool_reads_the_images(tmp_path):
    pictures = images(5)
    write(tmp_path, pictures, images_per_shard=3)
    found = {}
    for path in sorted(tmp_path.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                found[member.name] = np.asarray(Image.open(io.BytesIO(tar.extractfile(member).read())))
    assert list(found) == [f"image-{index}.png" for index in range(5)]
    for pixels, expected in zip(found.values(), pictures, strict=True):
        assert np.array_equal(pixels, expected)


def test_the_same_data_is_the_same_files(tmp_path):
    first, second = (write(tmp_path / name, images(3), RECORDS[1:2]) for name in "ab")
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def test_jpeg_is_kept_as_jpeg(tmp_path):
    smooth = np.tile(np.arange(32, dtype=np.uint8)[:, None, None] * 4, (1, 32, 3))
    data = Dataset(write(tmp_path, [smooth], image_format="JPEG"))
    with tarfile.open(tmp_path / "images-00000.tar") as tar:
        assert tar.getnames() == ["image-0.jpg"]
    assert np.abs(data.image(0).astype(int) - smooth).max() < 8


def test_grey_images_are_read_as_colors(tmp_path):
    data = Dataset(write(tmp_path, [np.full((4, 4), 7, dtype=np.uint8)]))
    assert data.image(0).tolist() == np.full((4, 4, 3), 7).tolist()


def test_records_come_back(folder):
    data = Dataset(folder)
    assert tuple(data.records) == RECORDS
    assert [data.image_row(data.records[index]) for index in (0, 2)] == [0, 1]


def test_images_are_read_without_the_conversations(folder):
    (folder / "conversations.json").unlink()
    assert Dataset(folder).image(1).shape[-1] == 3


def test_conversations_are_in_llavas_layout(folder):
    rows = json.loads((folder / "conversations.json").read_text())
    assert rows[0]["conversations"] == [
        {"from": "human", "value": "<image>\nWhat?"},
        {"from": "gpt", "value": "A cat."},
        {"from": "human", "value": "And?"},
        {"from": "gpt", "value": "猫"},
    ]
    assert (rows[0]["id"], rows[0]["image"]) == ("a", "a")
    assert "image" not in rows[1] and rows[1]["conversations"][0]["value"] == "How?"


def test_the_placeholder_may_stand_anywhere_in_a_question():
    turns = [{"from": "human", "value": "What is this?\n<image>"}, {"from": "gpt", "value": "A cat."}]
    record = Record.from_json({"id": 7, "image": "a", "conversations": turns}, source="file")
    assert (record.id, record.questions) == ("7", ("What is this?",))


def test_a_prompt_is_image_context_question():
    shown = Record("r", ("Q",), ("A",), image="i", context="C")
    assert shown.prompt("Q") == "<image>\nC\nQ"
    assert Record("r", ("Q",), ("A",)).prompt("Q") == "Q"


def human(value="What?"):
    return {"from": "human", "value": value}


def gpt(value="That."):
    return {"from": "gpt", "value": value}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "x", "conversations": [human(), human(), gpt()]}, "record 'x' of .*: conversations must alternate"),
        ({"id": "x", "conversations": [gpt(), human()]}, "must alternate human, gpt"),
        ({"id": "x", "conversations": [human(), gpt(), human()]}, "end with gpt"),
        ({"id": "x", "conversations": []}, "must alternate"),
        ({"id": "x"}, "must alternate"),
        ({"id": "x", "conversations": [human(), {"from": "gpt"}]}, "must alternate"),
        ({"id": "x", "conversations": [human(), gpt("  ")]}, "record 'x' of .*: an answer is empty"),
        ({"conversations": [human(), gpt()]}, "expected records with at least `id`"),
        ("text", "found text; expected records"),
    ],
)
def test_a_broken_record_is_named(folder, row, message):
    (folder / "conversations.json").write_text(json.dumps([row]))
    with pytest.raises(UserError, match=message):
        _ = Dataset(folder).records


def test_a_record_whose_image_is_missing_is_named(folder):
    rows = [{"id": "x", "image": "elsewhere", "conversations": [human("<image>"), gpt()]}]
    (folder / "conversations.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=r"record 'x' of .* names image 'elsewhere', which no shard holds"):
        _ = Dataset(folder).records


@pytest.mark.parametrize("file", ["conversations.json", "index.npz"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_folder_that_is_no_dataset_is_named(folder, file, damage):
    if damage == "missing":
        (folder / file).unlink()
    else:
        (folder / file).write_bytes((folder / file).read_bytes()[:100])
    with pytest.raises(UserError, match=re.escape(f"{folder} is no dataset")):
        _ = Dataset(folder).records


@pytest.mark.parametrize("damage", ["overwritten", "overwritten in its midst", "cut", "missing"])
def test_a_broken_image_is_named(tmp_path, damage):
    write(tmp_path, [np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)])
    tar = tmp_path / "images-00000.tar"
    if damage == "missing":
        tar.unlink()
    elif damage == "cut":
        tar.write_bytes(tar.read_bytes()[:2000])
    else:
        content = bytearray(tar.read_bytes())
        start = 512 if damage == "overwritten" else 700
        content[start : start + 500] = bytes(500)
        tar.write_bytes(content)
    with pytest.raises(UserError, match=r"image 'image-0' in .*images-00000\.tar cannot be (read|decoded)"):
        Dataset(tmp_path).image(0)


def test_two_images_of_one_name_are_an_error(tmp_path):
    with pytest.raises(UserError, match="two images are called 'a'"), ShardWriter(tmp_path) as writer:
        writer.add_image("a", images(1)[0])
        writer.add_image("a", images(1)[0])


def test_what_raises_within_leaves_no_index(tmp_path):
    with pytest.raises(KeyError), ShardWriter(tmp_path) as writer:
        writer.add_image("a", images(1)[0])
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["images-00000.tar"]
