"""Names of images that leave their folder: refused, or counted, by every reader."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from vlmlaw.data.image_folder import FOLLOW_LINKS, fault_of
from vlmlaw.data.llava import SKIPPED, prepare_split
from vlmlaw.data.settings import LlavaFile, SplitSettings
from vlmlaw.errors import UserError
from vlmlaw.evaluation.measuring.questions_of import read_question_set
from vlmlaw.evaluation.metrics import Question
from vlmlaw.evaluation.questions import image_reader

ESCAPES = ["../secret.png", "x/../../secret.png", "/etc/hostname", "linked.png", "far/secret.png", "loop.png", "x", "."]


@pytest.fixture
def images(tmp_path):
    """A folder with an image, a link to it, and links that leave the folder: of a file, of a folder, of itself."""
    folder = tmp_path / "images"
    (folder / "x").mkdir(parents=True)
    for path in (folder / "x" / "a.png", tmp_path / "secret.png"):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    (folder / "again.png").symlink_to("x/a.png")
    (folder / "linked.png").symlink_to("../secret.png")
    (folder / "far").symlink_to(tmp_path)
    (folder / "loop.png").symlink_to("loop.png")
    return folder


def turns(text):
    return [{"from": "human", "value": f"<image>\n{text}"}, {"from": "gpt", "value": "yes"}]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_record_whose_image_leaves_the_folder_is_refused_or_a_counted_skip(images, tmp_path, name):
    records = [{"id": "ok", "image": "again.png", "conversations": turns("Is it?")}]
    records += [{"id": "bad", "image": name, "conversations": turns("Is it?")}]
    (tmp_path / "records.json").write_text(json.dumps(records))
    file = LlavaFile(conversations=str(tmp_path / "records.json"), images=str(images))
    settings = SplitSettings(files={"": file}, image_px=8, fit="pad", pad_color=(0, 0, 0))
    with pytest.raises(UserError, match=r"record 'bad' of .* cannot be used: its image"):
        prepare_split(tmp_path / "out", settings=settings)
    prepare_split(tmp_path / "out", settings=SplitSettings(**{**settings.__dict__, "skip_at_most": 0.5}))
    told = json.loads((tmp_path / "out" / SKIPPED).read_text())
    assert told["kept"] == 1 and [skip["id"] for skip in told["skipped"]] == ["bad"]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_question_whose_image_leaves_the_folder_is_refused(images, tmp_path, name):
    asked = [Question("1", "?", ("yes",), image="x/a.png"), Question("2", "?", ("no",), image=name)]
    with pytest.raises(UserError, match=r"question '2' of q.json names the image .*1 of 2 questions"):
        image_reader(images, asked, source="q.json")
    (images / "own.csv").write_text(f"image,answer\nagain.png,yes\n{name},no\n")
    mine = read_question_set(images / "own.csv", images=None, metric=None, question="Is it?")
    with pytest.raises(UserError, match="names the image"):
        image_reader(mine.images, list(mine.questions), source=mine.source)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("https://example.org/a.png", "which is an address, and images are read from files; download it"),
        ("data:image/png;base64,iVBORw0KGgo=", "which is an address"),
        ("/data/pages/a.png", "which is an absolute path; name it as it stands below the folder of images, as a.png"),
        ("../a.png", r"which leaves the folder of images by \.\."),
        ("a.png", "which is missing; 1 of 1 questions lack theirs. Images are read below .*images, or below another"),
    ],
)
def test_what_is_no_image_of_the_folder_is_called_by_its_name(images, name, why):
    with pytest.raises(UserError, match=f"question '1' of q.json names the image .*, {why}"):
        image_reader(images, [Question("1", "?", ("yes",), image=name)], source="q.json")


def test_a_folder_may_be_called_as_an_address_begins(images):
    (images / "data:").mkdir()
    (images / "data:" / "a.png").write_bytes((images / "x" / "a.png").read_bytes())
    assert fault_of(images, "data:/a.png") == ""


def test_links_of_ones_own_are_followed_where_that_is_said(images, monkeypatch):
    assert "is or lies behind a link to" in fault_of(images, "linked.png") and FOLLOW_LINKS in fault_of(
        images, "far/secret.png"
    )
    monkeypatch.setenv(FOLLOW_LINKS, "1")
    assert [name for name in ESCAPES if not fault_of(images, name)] == ["linked.png", "far/secret.png"]


def test_the_folder_itself_may_be_a_link_and_the_hubs_cache_is_one_of_links(images, tmp_path):
    (tmp_path / "elsewhere").symlink_to(images)
    assert fault_of(tmp_path / "elsewhere", "again.png") == ""
    snapshot, blobs = tmp_path / "datasets--a--b" / "snapshots" / "c0ffee", tmp_path / "datasets--a--b" / "blobs"
    (snapshot / "images").mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1234").write_bytes((images / "x" / "a.png").read_bytes())
    (snapshot / "images" / "a.png").symlink_to("../../../blobs/1234")
    (snapshot / "images" / "b.png").symlink_to("../../../../secret.png")
    assert fault_of(snapshot / "images", "a.png") == "" and "a link to" in fault_of(snapshot / "images", "b.png")


def test_a_link_in_an_archive_is_no_image(images, tmp_path):
    """Its content is the path that it names, which is not followed."""
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        link = zipfile.ZipInfo("linked.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, str(tmp_path / "secret.png"))
    (tmp_path / "r.json").write_text(json.dumps([{"id": "1", "image": "linked.png", "conversations": turns("?")}]))
    file = LlavaFile(conversations=str(tmp_path / "r.json"), images=str(tmp_path / "images.zip"))
    settings = SplitSettings(files={"": file}, image_px=8, fit="pad", pad_color=(0, 0, 0))
    with pytest.raises(UserError, match=r"linked.png cannot be decoded"):
        prepare_split(tmp_path / "out", settings=settings)
