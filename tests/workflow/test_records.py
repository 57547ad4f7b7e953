"""Records beside results: what they hold, which file is meant, and what is made of one that cannot be read."""

import json
from argparse import Namespace
from pathlib import Path

from vlmlaw.runtime.whole_files import sha256_of
from vlmlaw.workflow import records


def write(tmp_path, *, verb="tokenize", read=(), **inputs):
    """The record of a verb that made `out`, with these inputs."""
    given = {"settings": '{"a": 1}', "code": "c0de", "upstream": "0123", "read": read, "made": []}
    given["made_from"] = [f"{name}={path}" for name, path in inputs.items()]
    args = Namespace(verb=verb, record=tmp_path / "made" / records.NAME, out=tmp_path / "made", **given)
    records.write(args)
    return records.read(args.record)


def folder(path, **files):
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def test_a_record_holds_what_was_given_and_the_hash_of_every_file(tmp_path):
    folder(tmp_path / "made", a="one", b="two")
    record = write(tmp_path)
    assert record["settings"] == '{"a": 1}' and record["code"] == "c0de" and record["upstream"] == "0123"
    assert set(record["files"]) == {"a", "b"}
    assert record["files"]["a"]["sha256"] == sha256_of(tmp_path / "made" / "a")
    assert record["files"]["a"]["bytes"] == 3


def test_the_version_of_a_content_follows_its_files_and_nothing_else(tmp_path):
    versions = []
    for name, text in (("first", "one"), ("second", "one"), ("third", "two")):
        folder(tmp_path / name / "made", a=text)
        versions.append(write(tmp_path / name, verb=name)["content"])
    assert versions[0] == versions[1] != versions[2]


def test_an_input_with_a_record_is_named_with_its_version_and_its_own_inputs(tmp_path):
    pictures = folder(tmp_path / "pictures", index="x")
    records.write(
        Namespace(
            verb="pictures",
            record=pictures / records.NAME,
            out=pictures,
            settings="{}",
            code="p",
            upstream=None,
            read=[],
            made=[],
            made_from=[],
        )
    )
    folder(tmp_path / "made", a="one")
    record = write(tmp_path, dataset=pictures / "index", tokenizer=tmp_path / "unrecorded")
    assert set(record["inputs"]) == {"dataset"}
    found = record["inputs"]["dataset"]
    assert found["path"] == str(pictures) and found["code"] == "p"
    assert found["content"] == records.read(pictures / records.NAME)["content"]
    assert [name for name, _ in records.walk(record["inputs"])] == ["dataset"]


def test_files_that_no_job_made_are_told_with_what_is_made_from_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("train.json", "questions.json"):
        (tmp_path / name).write_text("{}")
    folder(tmp_path / "made", index="x")
    record = write(tmp_path, read=[Path("train.json"), Path("questions.json")])
    found = dict(records.files_read(record))
    assert set(found) == {"train.json", "questions.json"}
    assert found["train.json"]["sha256"] == sha256_of(tmp_path / "train.json")
    pictures = (tmp_path / "made").rename(tmp_path / "pictures")
    folder(tmp_path / "made", tokens="y")
    assert dict(records.files_read(write(tmp_path, dataset=pictures / "index"))) == found


def test_what_is_no_record_reads_as_none(tmp_path):
    assert records.read(tmp_path / "missing.json") is None
    for text in ("", "[]", '{"files": 3}', json.dumps({"files": {}, "settings": "", "code": ""})):
        (tmp_path / "record.json").write_text(text)
        assert records.read(tmp_path / "record.json") is None


def test_the_record_of_a_file_lies_beside_it(tmp_path):
    assert records.record_of(tmp_path / "evaluation.json") is None
    for result, record in (("evaluation.json", "evaluation.record.json"), ("model", "training.record.json")):
        (tmp_path / record).write_text("{}")
        assert records.record_of(tmp_path / result) == tmp_path / record


def test_the_working_directory_itself_may_be_an_input(tmp_path, monkeypatch):
    """Questions that lie there have their images there."""
    monkeypatch.chdir(tmp_path)
    assert records.record_of(Path()) is None
