"""The site's generated pages: every key of an experiment file is there, with its real bounds; every public law too."""

import re
import sys
from pathlib import Path

import pytest
import yaml

from vlmlaw import laws
from vlmlaw.errors import UserError
from vlmlaw.experiment.experiment import Experiment

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "params.yaml", *sorted((ROOT / "workflow" / "experiments").glob("*.yaml"))]
SECTION = re.compile(r"^## (?P<title>.*?) \{#\w+\}$", re.MULTILINE)
BOUND = re.compile(r"(at least|above|at most) (\d+(?:\.\d+)?)")


@pytest.fixture(scope="module")
def site():
    """The modules of docs/site that need no MkDocs."""
    sys.path.insert(0, str(ROOT / "docs" / "site"))
    import api
    import experiment_file

    yield experiment_file, api
    sys.path.remove(str(ROOT / "docs" / "site"))


@pytest.fixture(scope="module")
def sections(site):
    """Rows of the page (key to cells) by the path that a section has in the file; classes at one path are merged."""
    experiment_file, _ = site
    _, *parts = SECTION.split(experiment_file.reference())
    found = {}
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        rows = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in text.splitlines() if line.startswith("| `")]
        for path in [""] if title == "The file itself" else re.findall(r"`([^`]+)`", title):
            found.setdefault(path, {}).update({row[0].strip("`"): row for row in rows})
    return found


def without_a_row(mapping, path, sections):
    """Keys of a parsed file that the page does not have, each with its path."""
    missing = [f"{path}.{key}" for key in mapping if key not in sections[path]]
    for key, value in mapping.items():
        inner = f"{path}.{key}".lstrip(".")
        within = [(f"{inner}[]", value)] if isinstance(value, list) else [(inner, [value])]
        within += [(f"{inner}.NAME", value.values())] if isinstance(value, dict) else []
        for found, parts in within:
            if found in sections:
                missing += [name for part in parts for name in without_a_row(part, found, sections)]
    return missing


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_reference_has_every_key_of_every_experiment_file(path, sections):
    assert without_a_row(yaml.safe_load(path.read_text()), "", sections) == []
    assert {"sizes.NAME", "grid", "compute", "law", "evaluation.benchmarks[]"} <= set(sections)


def test_the_bounds_of_the_reference_are_those_that_are_checked(sections):
    tiny = yaml.safe_load((ROOT / "workflow" / "experiments" / "tiny.yaml").read_text())
    bounded = {key: BOUND.findall(cells[1]) for key, cells in sections["compute"].items() if BOUND.search(cells[1])}
    assert len(bounded) > 5
    for key, bounds in bounded.items():
        for word, number in bounds:
            beyond = float(number) + (1 if word == "at most" else 0 if word == "above" else -1)
            value = int(beyond) if "whole number" in sections["compute"][key][1] else beyond
            with pytest.raises(UserError, match=f"compute.{key}: found"):
                Experiment.from_mapping({**tiny, "compute": {key: value}})


def test_every_key_says_what_it_means(sections):
    keys = {(path, key): cells for path, rows in sections.items() for key, cells in rows.items()}
    assert len(keys) > 120
    assert [name for name, cells in keys.items() if len(cells) != 4 or len(cells[3].split()) < 2] == []


def test_descriptions_come_from_comments_docstrings_and_inherited_keys(sections):
    assert sections["compute"]["max_memory_mb"][3] == "of a node"
    assert sections["law"]["level"][3] == "confidence level of every interval."
    assert sections["training"]["dtype"][3].startswith("of the arithmetic")


def test_every_public_name_of_the_laws_is_on_a_page(site):
    _, api = site
    pages = api.package_pages("vlmlaw.laws", ROOT / "src")
    modules = {getattr(getattr(laws, name), "__module__", None) for name in laws.__all__} - {None}
    assert {f"reference/{name.replace('.', '/')}.md" for name in modules if name.startswith("vlmlaw.laws")} <= set(
        pages
    )
    assert "| [`fit`](fit.md) | Fit one law" in pages["reference/vlmlaw/laws/index.md"]


def test_a_package_that_is_not_there_has_no_page(site):
    _, api = site
    assert api.package_pages("vlmlaw.of_another_time", ROOT / "src") == {}
