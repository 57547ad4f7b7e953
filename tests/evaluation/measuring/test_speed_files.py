"""Times of load generators, in the forms that they publish."""

import json

import numpy as np
import pandas as pd
import pytest

from vlmlaw.errors import UserError
from vlmlaw.evaluation.measuring.speed_files import check_cells, read_speed, with_speed

# From results of `vllm bench serve` (Qwen3-8B, concurrency 1) and from the guide of AIPerf to its files.
VLLM = {
    "completed": 4,
    "median_ttft_ms": 20.0765,
    "p95_ttft_ms": 20.1494,
    "median_e2el_ms": 189.3228,
    "p95_e2el_ms": 189.5882,
    "request_throughput": 5.2887,
}
AIPERF = {
    "request_throughput": {"unit": "requests/sec", "avg": 13.1608},
    "request_latency": {"unit": "ms", "avg": 6550.36, "p50": 5799.90, "p95": 8980.84},
    "time_to_first_token": {"unit": "ms", "avg": 1588.80, "p50": 787.54, "p95": 4051.43},
}
GUIDELLM = {
    "benchmarks": [
        {
            "metrics": {
                "time_to_first_token_ms": {"successful": {"median": 30.0, "percentiles": {"p50": 30.0, "p95": 50.0}}},
                "request_latency": {"successful": {"median": 0.5, "percentiles": {"p95": 0.8}}},
                "requests_per_second": {"successful": {"mean": 7.5}},
            }
        }
    ]
}
CASES = {
    "vllm": (VLLM, (20.0765, 20.1494, 189.3228, 189.5882, 5.2887)),
    "aiperf": (AIPERF, (787.54, 4051.43, 5799.90, 8980.84, 13.1608)),
    "guidellm": (GUIDELLM, (30.0, 50.0, 500.0, 800.0, 7.5)),
}


def written(tmp_path, data):
    path = tmp_path / "speed.json"
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize("case", CASES)
def test_times_are_read(case, tmp_path):
    data, wanted = CASES[case]
    assert tuple(read_speed(written(tmp_path, data)).values()) == pytest.approx(wanted)


def test_a_cells_times_are_replaced_as_a_whole(tmp_path):
    table = pd.DataFrame({"cell": ["a", "b"], "total_ms": [1.0, 2.0], "total_ms_p95": [3.0, 4.0]})
    table = table.assign(first_token_ms=0.5, first_token_ms_p95=0.6)
    path = written(tmp_path, {name: value for name, value in VLLM.items() if not name.startswith("p95")})
    found = with_speed(table, {"a": read_speed(path)}).set_index("cell")
    assert found.total_ms.to_dict() == {"a": 189.3228, "b": 2.0} and found.first_token_ms["b"] == 0.5
    assert np.isnan(found.total_ms_p95["a"]) and found.requests_per_second["a"] == 5.2887
    assert with_speed(table, {}) is table
    with pytest.raises(UserError, match=r"for the cell 'c'; there are a, b"):
        check_cells({"c": {}}, [*table.cell])


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ({"latency": 3}, "none of the results known here"),
        (VLLM | {"completed": 0}, "holds no time"),
        ({"benchmarks": GUIDELLM["benchmarks"] * 2}, "2 benchmarks, of several loads"),
        (AIPERF | {"request_latency": {"unit": "weeks", "p50": 1}}, "is in 'weeks'"),
    ],
)
def test_what_cannot_be_read_is_said(data, wanted, tmp_path):
    with pytest.raises(UserError, match=wanted):
        read_speed(written(tmp_path, data))
