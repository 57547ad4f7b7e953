"""Every causal language model of transformers is packed, padded or refused, as docs/architectures.md says."""

import importlib.util
import sys
from pathlib import Path

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("architectures", ROOT / "benchmarks/architectures.py")
architectures = importlib.util.module_from_spec(SPEC)
sys.modules["architectures"] = architectures  # where dataclasses look for their annotations
SPEC.loader.exec_module(architectures)
# One of each kind: plain, windows, soft caps, sinks, scaled logits, leaking rows, states, latent attention, experts.
SAMPLE = ["qwen2", "mistral", "gemma2", "gpt_oss", "granite", "nemotron", "falcon", "qwen3_next", "minicpm3", "mixtral"]


def pages_verdicts():
    lines = (ROOT / "docs/architectures.md").read_text(encoding="utf-8").splitlines()
    cells = [line.strip("|").split("|") for line in lines if line.startswith("| ")][1:]
    return {name.strip(): verdict.strip() for name, verdict, *_ in cells}


@pytest.mark.parametrize("name", SAMPLE)
def test_an_architecture_is_read_as_the_page_says(name):
    row = architectures.examine(name)
    assert row.verdict == pages_verdicts()[name], row
    assert row.verdict in ("packed", "padded")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(SAMPLE)))
def test_every_architecture_is_read_as_the_page_says(name):
    assert architectures.examine(name).verdict == pages_verdicts().get(name, "not on the page")


def test_the_page_names_many_and_most_are_exact():
    verdicts = list(pages_verdicts().values())
    assert sum(verdict in ("packed", "padded") for verdict in verdicts) > 110
