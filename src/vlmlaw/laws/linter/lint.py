"""Find faults of measured cells before a law is fitted to them.

A finding says where the fault is, what was found, why it matters and what to do. Errors stop an analysis; warnings are
part of its result.
"""

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.laws.linter.designs import DESIGN_CHECKS
from vlmlaw.laws.linter.grid import GRID_CHECKS, missing_cells
from vlmlaw.laws.linter.mixtures import MIXTURE_CHECKS
from vlmlaw.laws.linter.values import VALUE_CHECKS, Finding
from vlmlaw.laws.table import ALL_KINDS, Measurements, as_measurements

POOR = ("few-sizes", "few-token-counts", "constant-error")  # a group with these cannot determine a law

MAX_LABELS = 6  # groups that a finding names; a comparison of compressors has over a hundred


def lint(table: Measurements | pd.DataFrame, *, allow_missing: bool = False) -> list[Finding]:
    """Findings of every suite and kind of a table, errors first.

    Missing cells are an error where the table has a list of those expected, unless `allow_missing`; else a warning.

    >>> from vlmlaw.laws import read_measurements
    >>> [finding.code for finding in lint(read_measurements("li2024_ocr"))]
    ['equal-values', 'noted', 'noted']
    """
    table = as_measurements(table)
    missing = "error" if table.expected and not allow_missing else "warning"
    found = {group_label(group): _lint_group(table.select(**group), missing=missing) for group in table.groups}
    some_sound = any(all(finding.severity != "error" for finding in findings) for findings in found.values())
    labels: dict[Finding, list[str]] = {}
    for label, findings in found.items():
        for finding in findings:
            # A group too poor for a law (a compressor measured at one size) must not stop the other groups.
            spared = some_sound and finding.code in POOR
            labels.setdefault(replace(finding, severity="warning") if spared else finding, []).append(label)
    merged = [_with_labels(finding, where, n_groups=len(table.groups)) for finding, where in labels.items()]
    return sorted(merged, key=lambda finding: finding.severity != "error")


def require_unmixed(table: Measurements) -> None:
    """Raise UserError where a column that no law reads tells the rows of a cell apart; other findings do not count."""
    groups = [table.select(**group) for group in table.groups]
    errors = list(dict.fromkeys(finding for rows in groups for check in MIXTURE_CHECKS for finding in check(rows)))
    if errors:
        raise UserError("\n".join([f"{table.source}:", *(f"  {finding}" for finding in errors)]))


def group_label(group: Mapping[str, str]) -> str:
    """The name of a group: its suite, and its kind and compressor if it has them."""
    parts = [group["suite"], group["kind"] if group["kind"] != ALL_KINDS else "", group.get("compressor", "")]
    return "/".join(part for part in parts if part)


def _lint_group(rows: Measurements, *, missing: str) -> list[Finding]:
    found = [finding for check in (*VALUE_CHECKS, *MIXTURE_CHECKS) for finding in check(rows)]
    # Values that are not numbers, and cells that are several, make every later check misleading.
    if not any(finding.severity == "error" for finding in found):
        found += [finding for check in GRID_CHECKS for finding in check(rows)]
        if all(finding.severity != "error" or finding.code in POOR for finding in found):
            found += [finding for check in DESIGN_CHECKS for finding in check(rows)]
        found += missing_cells(rows, severity=missing)
    return found


def _with_labels(finding: Finding, labels: list[str], *, n_groups: int) -> Finding:
    """The finding with the groups that it concerns, unless it concerns all of them."""
    if len(labels) == n_groups:
        return finding
    more = f" and {len(labels) - MAX_LABELS} more" if len(labels) > MAX_LABELS else ""
    return replace(finding, where=f"{', '.join(labels[:MAX_LABELS])}{more}: {finding.where}")


def require_clean(table: Measurements | pd.DataFrame, *, allow_missing: bool = False) -> list[Finding]:
    """Return the warnings of `lint`. Raises UserError that lists every error.

    >>> from vlmlaw.laws import read_measurements
    >>> require_clean(read_measurements("li2024_reasoning"))
    []
    """
    findings = lint(table, allow_missing=allow_missing)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        source = as_measurements(table).source
        lines = "\n".join(f"  {finding}" for finding in errors)
        raise UserError(f"{source} has {len(errors)} error{'s' * (len(errors) > 1)}:\n{lines}")
    return findings
