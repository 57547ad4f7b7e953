"""What the repository tracks: no large file, since every clone carries it for good."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIMIT = 500_000  # bytes
LARGE_FILES: set[str] = set()  # larger ones that everybody needs, each with its reason beside it


def tracked_files():
    """Bytes of each file that git tracks, by path; one that was deleted and not yet committed counts nothing."""
    if not (ROOT / ".git").exists():
        pytest.skip("this copy of the project is no git checkout, so nothing is tracked")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name: (ROOT / name).lstat().st_size for name in listed.split("\0") if name and (ROOT / name).is_file()}


def complaints(sizes):
    """What is wrong with tracked files of these sizes: a line for each, with what to do."""
    return [
        f"{name} has {size:,} bytes; at most {LIMIT:,} are tracked. Take it out (git rm --cached {name!r}) and list it "
        f"in .gitignore, let DVC keep it, or name it in LARGE_FILES of tests/{Path(__file__).name} with the reason."
        for name, size in sizes.items()
        if size > LIMIT and name not in LARGE_FILES
    ]


def test_no_tracked_file_is_large():
    assert not (found := complaints(tracked_files())), "\n".join(found)


def test_a_large_file_is_named_with_its_size_and_what_to_do():
    (line,) = complaints({"profiler.whl": 2_936_517, "README.md": 9_845})
    assert line.startswith("profiler.whl has 2,936,517 bytes") and "git rm --cached 'profiler.whl'" in line
