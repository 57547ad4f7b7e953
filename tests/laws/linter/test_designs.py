"""What a design cannot tell is planted in a clean grid and found, and what only looks like it is not."""

import numpy as np
import pandas as pd
import pytest

from vlmlaw.laws.linter.designs import DESIGN_CHECKS
from vlmlaw.laws.linter.lint import lint
from vlmlaw.laws.published import TABLES
from vlmlaw.laws.table import as_measurements, read_measurements


def findings(frame: pd.DataFrame) -> dict[str, list]:
    """Findings of these checks alone, by code."""
    found: dict[str, list] = {}
    for check in DESIGN_CHECKS:
        for finding in check(as_measurements(frame)):
            found.setdefault(finding.code, []).append(finding)
    return found


def grid(sizes, tokens, **columns) -> pd.DataFrame:
    n, v = (x.ravel() for x in np.meshgrid(sizes, tokens, indexing="ij"))
    error = 0.6 * n**-0.07 * v**-0.02
    frame = pd.DataFrame({"N": n.astype(float), "V": v.astype(float), "error": error})
    return frame.assign(**{name: [value(a, b) for a, b in zip(n, v, strict=True)] for name, value in columns.items()})


def test_a_clean_grid_has_no_findings(grid_frame):
    assert findings(grid_frame) == {}
    assert findings(read_measurements("li2024_reasoning").frame) == {}


@pytest.mark.parametrize(
    ("sizes", "tokens", "where", "do"),
    [
        ((7, 13), (16, 64, 256), "N from 7 B to 13 B", "measure N = 21 B or more, or 4.3 B or less"),
        ((0.5, 4, 14), (256, 576), "V from 256 to 576", "measure V = 770 or more, or 190 or less"),
        ((0.0005, 0.0014), (16, 64, 256), "N from 500 k to 1.4 M", "measure N = 1.5 M or more, or 470 k or less"),
    ],
)
def test_short_spans(sizes, tokens, where, do):
    (found,) = findings(grid(sizes, tokens))["narrow-span"]
    assert (found.where, found.do) == (where, do)
    assert "narrow-span" not in findings(grid((1, 3), (64, 192)))  # x3 is enough
    assert "narrow-span" not in findings(grid((7,), (64, 576)))  # one size has no span: another finding says so


def test_sizes_and_token_counts_that_rest_on_one_cell():
    whole = grid((0.5, 1.8, 4, 7), (1, 16, 64, 576))
    one_of_7b = whole[(whole["N"] < 7) | (whole["V"] == 576)]
    (found,) = findings(one_of_7b)["lone-cell"]
    assert (found.where, found.found) == ("N = 7 B", "1 of 4 sizes rests on one cell")
    assert found.do.startswith("measure a second V there")
    seeds = pd.concat([one_of_7b.assign(seed=seed) for seed in (0, 1)])  # a second seed is no second V
    assert [finding.where for finding in findings(seeds)["lone-cell"]] == ["N = 7 B"]
    two_tokens = whole[(whole["V"] != 16) | (whole["N"] == 4)]
    assert [finding.where for finding in findings(two_tokens)["lone-cell"]] == ["V = 16"]
    assert "lone-cell" not in findings(grid((7,), (1, 16, 64, 576)))  # along one axis each cell stands alone


def test_too_few_cells_for_an_interval():
    (found,) = findings(grid((0.5, 7), (16, 576)))["few-cells"]
    assert found.found.startswith("4 cells for the 3 parameters")
    assert "12.7 standard errors" in found.why  # Student's t with one degree of freedom
    assert "few-cells" not in findings(grid((0.5, 7), (16, 64, 576)))


def test_too_few_questions_for_the_change_of_the_error():
    frame = grid((0.5, 1.8, 7), (16, 64, 576))
    few, many = findings(frame.assign(n_questions=100)), findings(frame.assign(n_questions=5000))
    assert list(few) == ["few-questions"]
    assert many == {}
    asked = int(few["few-questions"][0].do.split()[2].replace(",", ""))
    assert findings(frame.assign(n_questions=asked)) == {}  # the remedy is one
    assert list(findings(frame.assign(error_se=0.05))) == ["few-questions"]


TOWERS = {
    "tower by size": ("tower", lambda n, v: "siglip" if n > 3 else "clip", "tower changes with N"),
    "resolution by V": ("image_size", lambda n, v: 224 if v < 100 else 336, "image_size changes with V"),
    "recipe of one size": ("recipe", lambda n, v: "b" if n == 7 else "a", "recipe changes with N"),
    "family in the model's name": (
        "model",
        lambda n, v: f"Qwen-VL-{n:g}B-Chat" if n > 3 else f"LLaVA-{n:g}B",
        "model changes with N",
    ),
    "a text of unknown meaning": ("lab", lambda n, v: "x" if n > 3 else "y", "lab changes with N"),
    "a method for each V": ("compressor", lambda n, v: "quecc" if v < 100 else "mqt", "compressor changes with V"),
    "one resolution for each V": ("resolution", lambda n, v: 14 * v**0.5, "resolution changes with V"),
}


@pytest.mark.parametrize("what", TOWERS)
def test_what_changes_with_size_or_tokens_is_found(what):
    name, value, says = TOWERS[what]
    (found,) = findings(grid((0.5, 1.8, 4, 7), (16, 64, 144, 576), **{name: value}))["confounded"]
    assert found.where == f"column {name}"
    assert found.found.startswith(says)


BALANCED = {
    "both towers at each size": (
        "tower",
        lambda n, v: "siglip" if (v in (16, 144) and n < 3) or (v in (64, 576) and n > 3) else "clip",
    ),
    "one tower": ("tower", lambda n, v: "clip"),
    "one family": ("model", lambda n, v: f"LLaVA-1.5-{n:g}B"),
    "a nickname of each size": ("nickname", lambda n, v: {0.5: "tiny", 1.8: "small", 4: "base", 7: "large"}[n]),
    "a cost": ("latency_ms", lambda n, v: n * (50 + v)),
    "no method at full length": ("compressor", lambda n, v: "none" if v == 576 else "mqt"),
    "one odd cell": ("tower", lambda n, v: "siglip" if (n, v) == (7, 576) else "clip"),
}


@pytest.mark.parametrize("what", BALANCED)
def test_what_does_not_is_not(what):
    name, value = BALANCED[what]
    assert findings(grid((0.5, 1.8, 4, 7), (16, 64, 144, 576), **{name: value})) == {}


def test_a_diagonal_of_released_models_tells_families_by_their_sizes():
    frame = pd.DataFrame(
        {"N": [0.5, 1, 2, 7, 13, 34], "V": [256.0, 64, 576, 144, 729, 81], "error": np.linspace(0.6, 0.4, 6)}
    )
    family = ["MobileVLM"] * 3 + ["LLaVA"] * 3
    assert [finding.found.split(" (")[0] for finding in findings(frame.assign(family=family))["confounded"]] == [
        "family changes with N"
    ]
    assert "confounded" not in findings(frame.assign(family=["a", "b", "b", "a", "a", "b"]))


def test_published_tables_have_the_findings_that_are_true_of_them():
    design = {"narrow-span", "lone-cell", "few-cells", "few-questions", "confounded"}
    found = {name: {finding.code for finding in lint(read_measurements(name))} & design for name in TABLES}
    assert found["li2024_reasoning"] == found["li2024_ocr"] == set()
    assert found["honeybee"] == {"narrow-span", "lone-cell", "few-cells"}  # 7 and 13 B, four cells
    assert found["mini_gemini"] == {"lone-cell"}  # 2 B was not asked at 2,880 tokens
