"""docs/compressors.md says of every compressor what its class does: names, V, weights; formulas are evaluated."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from golden_files import NAMES as GOLDEN_FILES
from golden_files import golden
from vlmlaw.compressors import COMPRESSORS

from .cases import ALL_NAMES, GRID, N_PATCHES, N_QUESTION_TOKENS, QUESTION_WIDTH, WIDTH, make, some_allowed

PAGE = Path(__file__).parents[2] / "docs" / "compressors.md"
ROWS = {
    row[0].strip("`"): row
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| `") and len(row := [part.strip() for part in line.strip("|").split("|")]) == 7
}


def test_every_compressor_has_a_row():
    assert set(ROWS) == set(ALL_NAMES)


@pytest.mark.parametrize("name", ALL_NAMES)
@pytest.mark.parametrize("n_levels", [1, 3])
def test_formulas_are_right(name, n_levels):
    parameters, flops = ROWS[name][5:]
    for n_tokens in some_allowed(name):
        compressor = make(name, n_tokens, n_levels=n_levels)
        values = {"P": N_PATCHES, "V": n_tokens, "R": N_PATCHES // n_tokens, "C": WIDTH, "L": n_levels, "S": WIDTH // 4}
        values |= {"H": getattr(compressor, "compared_width", WIDTH), "D": QUESTION_WIDTH, "T": N_QUESTION_TOKENS}
        values |= {"Z": n_tokens - max(1, n_tokens * 54 // 64), "N": min(256, N_PATCHES), "I": 512}

        def evaluated(text, values=values):
            return eval(re.search("`(.+)`", text)[1], {"__builtins__": {}}, values)  # our own page's arithmetic

        assert compressor.n_params() == evaluated(parameters)
        counted = compressor.flops(N_QUESTION_TOKENS)
        if compressor.training_free and n_tokens == N_PATCHES:
            assert counted == 0
        elif flops.startswith("at most"):
            assert 0 < counted <= evaluated(flops)
        else:
            assert counted == evaluated(flops)


@pytest.mark.parametrize("name", ALL_NAMES)
def test_words_are_right(name):
    _, _, weights, question, which, *_ = ROWS[name]
    kind = COMPRESSORS[name]
    assert ("elastic" in weights) == (kind.elastic and not kind.training_free)
    assert (weights == "at inference") == kind.training_free
    assert ("learned" in weights) == (make(name, some_allowed(name)[0]).n_params() > 0)
    assert (question == "yes") == (kind.needs_question or kind.inside_llm)
    allowed = kind.allowed_tokens(GRID)
    expected = {
        "P": [N_PATCHES],
        "square": [1, 4, 9, 36],
        "any square": [1, 4, 9, 16, 25, 36],
        "any": list(range(1, N_PATCHES + 1)),
        "any up to P / 4": list(range(1, N_PATCHES // 4 + 1)),
        "any up to 256": list(range(1, N_PATCHES + 1)),
    }
    assert allowed == expected[which]


# What test_golden.py and vlm/test_pruning.py compare, by method; what follows from it (such as the size of a mean of
# patches that is equal) is compared with it.
COMPARED = {
    "quecc": ["tokens", "projected", "question_vector"],
    "tokenpacker": ["tokens_*", "projected_*"],
    "mqt": ["projected_*"],
    "resampler": ["tokens"],
    "honeybee": ["tokens_*"],
    "internvl": ["shuffled", "projected"],
    "m3": ["projected_*"],
    "onevision": ["bilinear_*"],
    "fourier": ["tokens_*", "projected_*"],
    "tome": ["tokens_*", "sizes_*", "cluster_*"],
    "prumerge": ["prumerge_*", "plus_training"],
    "visionzip": ["tokens_*", "dominant_*"],
    "divprune": ["order_*"],
    "cdpruner": ["kept_*"],
    "scope": ["order_*"],
    "sparsevlm": ["rater_score", "raters", "priority", "kept_*"],
    "fastv": ["logits_*", "kept_*", "all_patches_logits"],
    "dart": ["logits_*", "kept_*", "pivots_*", "all_patches_logits"],
    "pyramiddrop": ["logits_*", "layers*", "all_patches_logits"],
}
DEPARTURES = PAGE.read_text(encoding="utf-8").split("## Where we depart")[1].split("\n## ")[0]
_CODES = [tuple(code.split(": ")) for code in re.findall(r"`(\w+: [\w*]+)`", DEPARTURES)]
LISTED = [code for code in _CODES if code[0] in COMPARED]


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_what_released_code_gives_is_compared_or_a_listed_departure(name):
    g = golden(name)
    method = name.split("_")[0]
    listed = [pattern for of, pattern in LISTED if of == method]
    for key in (*g.outputs, *g.index):
        compared = any(fnmatch(key, pattern) for pattern in COMPARED[method])
        assert compared != any(fnmatch(key, pattern) for pattern in listed), f"{name}: {key}"


def test_no_departure_is_listed_that_no_file_shows():
    for method, pattern in LISTED:
        files = [golden(name) for name in GOLDEN_FILES if name.split("_")[0] == method]
        assert any(fnmatch(key, pattern) for g in files for key in (*g.outputs, *g.index)), (method, pattern)


def test_every_method_with_a_golden_file_is_tested_on_it():
    text = "".join(source.read_text(encoding="utf-8") for source in Path(__file__).parents[1].rglob("test_*.py"))
    assert [name for name in GOLDEN_FILES if not re.search(rf'"{name}(\.npz)?"', text)] == []
