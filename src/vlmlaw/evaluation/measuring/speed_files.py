"""Times that a load generator measured, read from its JSON in place of those of our own requests.

`vllm bench serve --save-result` writes `median_ttft_ms` and `median_e2el_ms`; NVIDIA's AIPerf, in
profile_export_aiperf.json, an object with `unit` and percentiles for each metric; GuideLLM, in benchmarks.json, a list
of benchmarks, each with `metrics`, whose `request_latency` is in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError

UNIT_MS = {"ms": 1.0, "s": 1000.0, "sec": 1000.0, "us": 1e-3, "ns": 1e-6}
COLUMNS = ("first_token_ms", "first_token_ms_p95", "total_ms", "total_ms_p95", "requests_per_second")


def read_speed(path: Path) -> dict[str, float]:
    """The times of a file by the names of COLUMNS; nan for what it does not say.

    Raises UserError for a file of another form, for a run without a successful request, and for one of several loads.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} as JSON ({error}); expected the results of a load generator.") from error
    if isinstance(data, dict) and ("median_ttft_ms" in data or "median_e2el_ms" in data):
        found = _of_vllm(data)
    elif isinstance(data, dict) and isinstance(data.get("request_latency"), dict):
        found = _of_aiperf(data, path)
    elif isinstance(data, dict) and isinstance(data.get("benchmarks"), list):
        found = _of_guidellm(data["benchmarks"], path)
    else:
        raise UserError(
            f"{path} is none of the results known here: of `vllm bench serve --save-result`, AIPerf's "
            "profile_export_aiperf.json, GuideLLM's benchmarks.json."
        )
    if not any(value == value for value in found.values()):
        raise UserError(f"{path} holds no time; did any of its requests succeed?")
    return {name: found.get(name, np.nan) for name in COLUMNS}


def check_cells(speed: Mapping[str, Any], cells: Sequence[str]) -> None:
    """Raise UserError where a file of times is given for a cell that is none of these."""
    if unknown := [cell for cell in speed if cell not in cells]:
        raise UserError(f"a file of times is given for the cell {unknown[0]!r}; there are {', '.join(cells)}.")


def with_speed(table: pd.DataFrame, speed: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """The table of cells with the times that `read_speed` found, by cell, in place of its own."""
    if speed and "requests_per_second" not in table:
        table = table.assign(requests_per_second=np.nan)
    for cell, times in speed.items():
        # All of them: times of one load beside a p95 of another would be no cell's.
        table.loc[table.cell == cell, list(COLUMNS)] = [times[name] for name in COLUMNS]
    return table


def _of_vllm(data: Mapping[str, Any]) -> dict[str, float]:
    if data.get("completed") == 0:
        return {}
    return {
        "first_token_ms": _number(data.get("median_ttft_ms")),
        "first_token_ms_p95": _number(data.get("p95_ttft_ms")),
        "total_ms": _number(data.get("median_e2el_ms")),
        "total_ms_p95": _number(data.get("p95_e2el_ms")),
        "requests_per_second": _number(data.get("request_throughput")),
    }


def _of_aiperf(data: Mapping[str, Any], path: Path) -> dict[str, float]:
    def at(name: str, which: str) -> float:
        metric = data.get(name) or {}
        unit = metric.get("unit", "ms")
        if unit not in UNIT_MS:
            raise UserError(f"{path}: {name} is in {unit!r}; expected one of {', '.join(UNIT_MS)}.")
        return _number(metric.get(which)) * UNIT_MS[unit]

    return {
        "first_token_ms": at("time_to_first_token", "p50"),
        "first_token_ms_p95": at("time_to_first_token", "p95"),
        "total_ms": at("request_latency", "p50"),
        "total_ms_p95": at("request_latency", "p95"),
        "requests_per_second": _number((data.get("request_throughput") or {}).get("avg")),
    }


def _of_guidellm(benchmarks: list[Any], path: Path) -> dict[str, float]:
    if len(benchmarks) != 1:
        raise UserError(
            f"{path} holds {len(benchmarks)} benchmarks, of several loads; keep the one at the load you will have."
        )
    metrics = benchmarks[0].get("metrics") or {}

    def at(name: str, *keys: str) -> float:
        found = (metrics.get(name) or {}).get("successful") or {}
        flat = {**(found.get("percentiles") or {}), **found}
        return next((_number(flat[key]) for key in keys if flat.get(key) is not None), np.nan)

    return {
        "first_token_ms": at("time_to_first_token_ms", "median", "p50"),
        "first_token_ms_p95": at("time_to_first_token_ms", "p95"),
        "total_ms": 1000 * at("request_latency", "median", "p50"),
        "total_ms_p95": 1000 * at("request_latency", "p95"),
        "requests_per_second": at("requests_per_second", "mean"),
    }


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else np.nan
