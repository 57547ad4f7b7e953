"""The lines in cells' cards, of today and of old, make a saved cell known to transformers."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
LOAD = """
import sys
import {face}
from {face} import VlmProcessor
from transformers import AutoModelForImageTextToText, AutoTokenizer

model = AutoModelForImageTextToText.from_pretrained(sys.argv[1])
VlmProcessor.of_model(model, AutoTokenizer.from_pretrained(sys.argv[1]))
"""


@pytest.mark.parametrize("face", ["vlmlaw.auto", "vlmlaw.processor"])
def test_a_cards_first_line_is_enough_to_load_a_cell(cell, face):
    done = subprocess.run([sys.executable, "-c", LOAD.format(face=face), str(cell / "model")], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
