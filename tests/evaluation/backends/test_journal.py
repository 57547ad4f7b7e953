"""Replies are kept as they come: a killed process loses the line it was writing and nothing else."""

import os
import subprocess
import sys
import textwrap

import pytest

from vlmlaw.errors import UserError
from vlmlaw.evaluation.backends.interface import Reply
from vlmlaw.evaluation.backends.journal import Journal, key_of, read_replies


def test_replies_come_back_as_they_were(tmp_path):
    path, reply = tmp_path / "a" / "replies.jsonl", Reply(text="né\n", seconds=0.5, sizes=((3, 4),), n_prompt_tokens=7)
    with Journal(path) as journal:
        journal.add("k", "q", reply)
    with Journal(path) as journal:
        assert journal.replies == {"k": reply} == read_replies(path)


@pytest.mark.parametrize("tail", ['{"key": "b", "te', '{"key": "b", "text": "x", "seconds": 1}', "\x00\x00\n"])
def test_a_line_that_was_being_written_is_dropped(tmp_path, tail):
    path = tmp_path / "replies.jsonl"
    with Journal(path) as journal:
        journal.add("a", "1", Reply(text="yes", seconds=1.0))
    whole = path.read_bytes()
    path.write_bytes(whole + tail.encode())
    with Journal(path) as journal:
        assert set(journal.replies) == {"a"}
        journal.add("b", "2", Reply(text="no", seconds=1.0))
    assert path.read_bytes().startswith(whole)
    assert {key: reply.text for key, reply in read_replies(path).items()} == {"a": "yes", "b": "no"}


def test_one_process_writes_at_a_time(tmp_path):
    path = tmp_path / "replies.jsonl"
    code = f"""
        import sys
        from pathlib import Path
        from vlmlaw.evaluation.backends.interface import Reply
        from vlmlaw.evaluation.backends.journal import Journal
        with Journal(Path({str(path)!r})) as journal:
            journal.add("a", "1", Reply(text="yes", seconds=1.0))
            print("ready", flush=True)
            sys.stdin.read()
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=pipe, stdout=pipe, env=environment, text=True
    )
    assert other.stdout.readline() == "ready\n"
    with pytest.raises(UserError, match="another process"), Journal(path):
        pass
    other.kill()
    other.wait()
    with Journal(path) as journal:
        assert journal.replies["a"].text == "yes"


def test_a_key_is_of_its_parts():
    assert key_of("ab", "c") != key_of("a", "bc") and key_of("a", b"b") == key_of("a", "b")
