"""The benchmark script runs, on a grid that takes no time."""

import runpy
import sys
from pathlib import Path

from vlmlaw.compressors import COMPRESSORS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "compressor_speed.py"


def test_every_compressor_has_a_row_in_both_tables(monkeypatch, capsys):
    small = "--batch 1 --grid-side 4 --width 8 --tokens 1 4 16 --repeats 1 --least-ms 0"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *small.split()])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    printed = capsys.readouterr().out
    for name in COMPRESSORS:
        assert printed.count(f"\n| {name} |") == (0 if name.endswith("_at_inference") or name == "downsample" else 2)
    assert "Milliseconds" in printed and "Megabytes" in printed
