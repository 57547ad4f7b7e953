import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vlmlaw.data.framing import square
from vlmlaw.data.llava import SKIPPED, Broken, prepare_split, read_record
from vlmlaw.data.settings import LlavaFile, SplitSettings
from vlmlaw.data.shards import Dataset
from vlmlaw.errors import UserError


def said(*values):
    return [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]


GOOD = {"id": "a", "image": "x/a.jpg", "conversations": said("<image>\nWhat?", "A cat.", "Where?", "Here.")}
TEXT = {"id": "t", "conversations": said("Hello", "Hi")}
MISSING = {"id": "m", "image": "x/none.jpg", "conversations": said("<image>\nWhat?", "A dog.")}
NOT_AN_IMAGE = {"id": "b", "image": "x/b.jpg", "conversations": said("<image>\nWhat?", "A dog.")}


@pytest.fixture
def source(tmp_path):
    """A function that writes records and their images, and returns the settings to prepare them."""
    (tmp_path / "images" / "x").mkdir(parents=True)
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :, 0] = 200
    Image.fromarray(pixels).save(tmp_path / "images" / "x" / "a.jpg", quality=100)
    (tmp_path / "images" / "x" / "b.jpg").write_bytes(b"not an image")

    def write(records, *, suite="", **settings):
        (tmp_path / "records.json").write_text(json.dumps(records))
        file = LlavaFile(conversations=str(tmp_path / "records.json"), images=str(tmp_path / "images"))
        return SplitSettings(files={suite: file}, image_px=16, fit="pad", pad_color=(0, 0, 250), **settings)

    return write


def test_an_image_is_stored_once_as_a_padded_square(source, tmp_path):
    prepare_split(tmp_path / "out", settings=source([GOOD, GOOD | {"id": "again"}, TEXT]), n_threads=2)
    dataset = Dataset(tmp_path / "out")
    assert [record.id for record in dataset.records] == ["a", "again", "t"]
    assert dataset.records[0].questions == ("What?", "Where?") and dataset.records[2].image is None
    assert len(dataset.image_names) == 1
    pixels = dataset.image(0)
    assert pixels.shape == (16, 16, 3)
    assert pixels[8, 8, 0] > 150 and pixels[8, 8, 2] < 60  # the picture, in the middle
    assert pixels[1, 8, 0] < 60 and pixels[1, 8, 2] > 200  # the padding, above it


@pytest.mark.parametrize(
    ("fit", "corner"), [("pad", (0, 0, 250)), ("stretch", (200, 0, 0)), ("crop", (200, 0, 0))], ids=str
)
def test_every_fit_makes_a_square(fit, corner):
    picture = Image.new("RGB", (40, 20), (200, 0, 0))
    made = square(picture, 10, fit=fit, pad_color=(0, 0, 250))
    assert made.size == (10, 10) and made.getpixel((0, 0)) == corner


def test_cropping_keeps_the_middle():
    picture = Image.new("RGB", (40, 20), (0, 0, 0))
    picture.paste((0, 200, 0), (10, 0, 30, 20))
    assert square(picture, 20, fit="crop", pad_color=(0, 0, 0)).getpixel((0, 10)) == (0, 200, 0)


def test_images_may_come_in_a_zip_archive(source, tmp_path):
    settings = source([GOOD])
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.write(tmp_path / "images" / "x" / "a.jpg", "x/a.jpg")
    prepare_split(tmp_path / "folder", settings=settings)
    zipped = {"": replace(settings.files[""], images=str(tmp_path / "images.zip"))}
    prepare_split(tmp_path / "out", settings=replace(settings, files=zipped))
    assert (tmp_path / "out" / "index.npz").read_bytes() == (tmp_path / "folder" / "index.npz").read_bytes()
    np.testing.assert_array_equal(Dataset(tmp_path / "out").image(0), Dataset(tmp_path / "folder").image(0))


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (MISSING, "record 'm' of .*records.json cannot be used: its image .*none.jpg is missing"),
        (NOT_AN_IMAGE, "record 'b' of .*: its image .*b.jpg cannot be decoded"),
        ({"id": "e", "conversations": said("What?", " ")}, "record 'e' .*an answer is empty"),
        ({"id": "o", "conversations": said("What?")}, "record 'o' .*must alternate human, gpt"),
        ({"id": "l", "image": {"a": 1}, "conversations": said("W?", "A")}, "its image is .*expected one file's name"),
        ({"id": "n", "image": ["a", 1], "conversations": said("W?", "A")}, "its image is .*expected one file's name"),
        (TEXT | {"image": ["a", "b"]}, "record 't' of .*: its questions have 0 <image> for 2 images"),
        (GOOD | {"image": None}, "record 'a' of .*: its questions have 1 <image> for 0 images"),
        (TEXT | {"image": "x/a.jpg"}, "its questions have 0 <image> for 1 images"),
        (TEXT | {"conversations": said("Hi <image>", "Hello")}, "its questions have 1 <image> for 0 images"),
        (
            GOOD | {"conversations": said("<image>W?", "A", "<image>?", "B")},
            "its questions have 2 <image> for 1 images",
        ),
        (GOOD | {"conversations": said("<image>W?", "A <image>")}, "an answer holds <image>"),
        (GOOD | {"images": ["x/a.jpg"]}, "both `image` and `images`"),
        (TEXT | {"pictures": ["x/a.jpg"]}, "the key 'pictures' .* is not read"),
        (TEXT | {"system": "Be brief."}, r"the key 'system' \('Be brief.'\) is not read"),
        (
            TEXT | {"conversations": [*said("Q", "A"), {"from": "human", "value": "B", "image": "c"}, *said("C")]},
            "must alt",
        ),
        (
            TEXT | {"conversations": [said("Q")[0] | {"image": "c"}, said("Q", "A")[1]]},
            "record 't' of .*: the key 'image' .* is not read",
        ),
        (TEXT | {"kinds": ["a", "b"]}, "its kinds are .*expected a list with one for each of 1 questions"),
        (TEXT | {"kinds": [["a"]]}, "its kinds is .*expected text"),
        (TEXT | {"context": 3}, "its context is '3'; expected text"),
        (TEXT | {"id": ["t"]}, "its id is .*expected text or a whole number"),
        (TEXT | {"conversations": said("\ud83d", "A")}, "its conversation holds half of a character"),
        (GOOD | {"image": "../x/a.jpg"}, "is no file below the folder of images"),
        (GOOD | {"image": "/etc/passwd"}, "is no file below the folder of images"),
        (GOOD | {"image": "a\0b"}, "is no file below the folder of images"),
        (GOOD | {"image": "a" * 5000}, "is missing"),
        ({"conversations": "none"}, "record '#1' .*no list of `conversations`"),
        ("text", "record '#1' .*expected an object"),
    ],
)
def test_a_broken_record_is_an_error_with_its_id_and_file_or_left_out_and_told(source, tmp_path, broken, reason):
    records = [GOOD, broken, TEXT, GOOD]
    with pytest.raises(UserError, match=reason):
        prepare_split(tmp_path / "out", settings=source(records))
    assert not (tmp_path / "out").exists()
    prepare_split(tmp_path / "out", settings=source(records, skip_at_most=0.25))
    told = json.loads((tmp_path / "out" / SKIPPED).read_text())
    assert (told["records"], told["kept"], len(told["skipped"])) == (4, 3, 1)
    assert told["skipped"][0]["file"] == "records.json"
    assert len(Dataset(tmp_path / "out").records) == 3


def test_one_broken_record_more_than_allowed_is_an_error(source, tmp_path):
    with pytest.raises(UserError, match=r"'b'.*1 of 4 may be left out \(skip_at_most: 0.49\)"):
        prepare_split(tmp_path / "out", settings=source([NOT_AN_IMAGE, MISSING, GOOD, TEXT], skip_at_most=0.49))


def test_nothing_usable_is_an_error(source, tmp_path):
    with pytest.raises(UserError, match="no record of out can be used"):
        prepare_split(tmp_path / "out", settings=source([MISSING], skip_at_most=1.0))


def test_a_cut_off_file_is_noticed_by_its_number_of_records(source, tmp_path):
    settings = source([GOOD, TEXT])
    counted = {"": replace(settings.files[""], records=3)}
    with pytest.raises(UserError, match=r"holds 2 records; the experiment says 3"):
        prepare_split(tmp_path / "out", settings=replace(settings, files=counted))


def test_an_image_without_a_place_for_images_is_named(source, tmp_path):
    settings = source([GOOD])
    nowhere = {"": replace(settings.files[""], images="")}
    with pytest.raises(UserError, match="names no `images`"):
        prepare_split(tmp_path / "out", settings=replace(settings, files=nowhere))


def test_what_the_assistant_says_first_is_dropped_as_llava_does():
    record = read_record({"conversations": [{"from": "gpt", "value": "Hello."}, *said("Q?", "A.")]}, 7, source="f")
    assert not isinstance(record, Broken)
    assert (record.id, record.questions, record.answers) == ("#7", ("Q?",), ("A.",))


def test_a_tests_questions_become_records_of_their_suite_that_share_the_image(source, tmp_path):
    kinds = GOOD | {"kinds": ["thing", "place"]}
    prepare_split(tmp_path / "out", settings=source([kinds], suite="seeing", one_question_each=True))
    records = Dataset(tmp_path / "out").records
    assert [(r.id, r.suite, r.kinds, r.questions) for r in records] == [
        ("a-0", "seeing", ("thing",), ("What?",)),
        ("a-1", "seeing", ("place",), ("Where?",)),
    ]
    assert records[0].image == records[1].image == "seeing/x/a.jpg"


def test_pictures_of_any_mode_become_rgb():
    buffer = io.BytesIO()
    Image.new("P", (8, 8), 3).save(buffer, format="PNG")
    assert square(Image.open(buffer), 8, fit="pad", pad_color=(0, 0, 0)).mode == "RGB"


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_records_may_come_as_lines_and_as_parquet(source, tmp_path, kind):
    settings = source([GOOD, TEXT])
    path = tmp_path / f"records.{kind}"
    if kind == "jsonl":
        path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps(TEXT | {"id": "line\u2028end"}, ensure_ascii=False))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist([GOOD, TEXT]), path)
    file = replace(settings.files[""], conversations=str(path), records=2)
    prepare_split(tmp_path / "out", settings=replace(settings, files={"": file}))
    records = Dataset(tmp_path / "out").records
    assert [(r.image, r.questions) for r in records] == [("x/a.jpg", ("What?", "Where?")), (None, ("Hello",))]
    path.write_bytes(b"PAR1 cut")
    with pytest.raises(UserError, match=rf"records.{kind} cannot be read as"):
        prepare_split(tmp_path / "no", settings=replace(settings, files={"": file}))


def test_several_files_of_a_split_come_one_after_the_other_and_share_images(source, tmp_path):
    """A JSON list, JSON lines and a parquet file are the records of all, as if one file held them."""
    from pyarrow import Table, parquet

    whole = source([GOOD, GOOD | {"id": "b"}, TEXT, GOOD | {"id": "d"}])
    prepare_split(tmp_path / "whole", settings=whole)
    first = source([GOOD]).files[""]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, [GOOD | {"id": "b"}, TEXT])) + "\n")
    parquet.write_table(Table.from_pylist([GOOD | {"id": "d"}]), tmp_path / "c.parquet")
    others = {
        str(n): replace(first, conversations=str(tmp_path / name)) for n, name in ((2, "b.jsonl"), (3, "c.parquet"))
    }
    prepare_split(tmp_path / "parts", settings=replace(whole, files={"": first, **others}))
    for name in ("conversations.json", "index.npz", "images-00000.tar"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    (tmp_path / "elsewhere" / "x").mkdir(parents=True)  # the same name, another picture
    Image.new("RGB", (8, 8), (0, 250, 0)).save(tmp_path / "elsewhere" / "x" / "a.jpg")
    apart = replace(others["2"], images=str(tmp_path / "elsewhere"))
    prepare_split(tmp_path / "apart", settings=replace(whole, files={"": first, "2": apart}))
    dataset = Dataset(tmp_path / "apart")
    seen = [dataset.image(dataset.image_row(record))[8, 8].argmax() for record in dataset.records if record.image]
    assert seen == [0, 1] and {record.suite for record in dataset.records} == {""}

    cropped = replace(first, fit="crop")  # a file's own way to make squares
    prepare_split(tmp_path / "cropped", settings=replace(whole, files={"": cropped, "2": first}))
    dataset = Dataset(tmp_path / "cropped")
    corners = [dataset.image(dataset.image_row(record))[1, 8].argmax() for record in dataset.records]
    assert corners == [0, 2] and len(dataset.image_names) == 2

    (tmp_path / "b.jsonl").write_text(json.dumps(MISSING))
    with pytest.raises(UserError, match=r"record 'm' of .*b\.jsonl cannot be used: its image .* is missing"):
        prepare_split(tmp_path / "out", settings=replace(whole, files={"": first, **others}))
