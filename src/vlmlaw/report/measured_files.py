"""All that a measurement of released models gives, written into a folder: tables, measurements.csv, the page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from vlmlaw.evaluation.measuring.conclude import Conclusions, conclude
from vlmlaw.evaluation.measuring.decide import Wishes, least_of_each
from vlmlaw.evaluation.measuring.run import Measured
from vlmlaw.evaluation.measuring.summary import measurement_rows, write_csv
from vlmlaw.report.measured_page import write_measured_page


def write_measured(
    measured: Measured, wishes: Wishes, *, metric: str, out: Path, facts: Mapping[str, str]
) -> Conclusions:
    """Write cells.csv, questions.csv, least.csv, measurements.csv, load.csv if there is one, and index.html.

    Returns what follows from them. measurements.csv has no row where no cell shows an image, is counted and has a known
    size. Raises UserError for a cost that was not measured.
    """
    write_csv(measured.table, out / "cells.csv")
    write_csv(measured.judged, out / "questions.csv")
    write_csv(least_of_each(measured.judged), out / "least.csv")
    if measured.loads:
        write_csv(pd.DataFrame(map(vars, measured.loads)), out / "load.csv")
    write_csv(measurement_rows(measured.judged, measured.cells), out / "measurements.csv")
    found = conclude(measured, wishes, metric=metric)
    write_measured_page(found, out / "index.html", facts=facts)
    return found
