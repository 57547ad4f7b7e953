"""A published grid: its records satisfy Every Eval Ever's own schema, and `law import` makes the same table of them."""

import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
import yaml

from vlmlaw.cli.main import main
from vlmlaw.laws import read_measurements

SCHEMA = json.loads((Path(__file__).parent / "every_eval_ever.schema.json").read_text())
AS = ["--organization", "Our Lab (Berlin)", "--relationship", "first_party"]
# As every_eval_ever/validator/validation_core.py wants the path of a record.
PLACE = re.compile(r"data/[^/]+/[^/]+/[^/]+/[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\.json")


@pytest.fixture
def grid(tmp_path):
    """A results folder whose table has every column: kinds, seeds, trainings, flags, standard errors, a cost."""
    rng, rows = np.random.default_rng(1), []
    for n in (0.5, 1.8, 7):
        for v in (1, 16, 144):
            for kind in ("all", "count"):
                error = 0.6 - 0.05 * np.log(n) - 0.02 * np.log(v) + rng.normal(0, 0.003)
                row = {
                    "cell": f"c{n}_{v}",
                    "n_params": n * 1e9,
                    "n_visual_tokens": v,
                    "suite": "reasoning",
                    "kind": kind,
                }
                row |= {"error": error, "error_se": rng.uniform(0.001, 0.01), "n_questions": 400, "seed": 0}
                rows.append(
                    row | {"compressor": "average", "training": f"t{n}", "held_out": n == 7, "ttft_ms": 10 / 3 * n}
                )
    folder = tmp_path / "results"
    folder.mkdir()
    pd.DataFrame(rows).to_csv(folder / "measurements.csv", index=False)
    return folder


def published(source, out):
    assert main(["law", "publish", str(source), str(out), *AS]) == 0
    return sorted((out / "data").rglob("*.json"))


def comparable(path):
    frame = read_measurements(path).frame
    order = ["N", "V", "compressor", "seed", "suite", "kind"]
    return frame.sort_values(order, kind="stable").drop(columns="line").reset_index(drop=True)


def test_publish_then_import_gives_the_same_table(grid, tmp_path):
    out, back = tmp_path / "out", tmp_path / "back.csv"
    published(grid, out)
    assert main(["law", "import", str(out), "--out", str(back)]) == 0
    first = comparable(grid / "measurements.csv")
    for path in (out / "measurements.csv", back):
        found = comparable(path)
        pd.testing.assert_frame_equal(found[first.columns], first, check_exact=True)
    assert first["held_out"].sum() == 6 and first["error_se"].notna().all()  # or there was nothing to lose


@pytest.mark.parametrize("name", ["li2024_ocr", "braco_table1"])
def test_published_tables_survive_the_round_trip(name, tmp_path):
    out, back = tmp_path / "out", tmp_path / "back.csv"
    published(name, out)
    assert main(["law", "import", str(out), "--out", str(back)]) == 0
    first, found = comparable(name), comparable(back)
    same = ["N", "V", "compressor", "suite", "kind", "error", "note"]
    pd.testing.assert_frame_equal(found[same], first[same], check_exact=True)
    if name == "braco_table1":
        assert found["latency_ms"].tolist() == first["latency_ms"].tolist()


def test_records_satisfy_the_schema_and_lie_where_the_datastore_has_them(grid, tmp_path):
    records = published(grid, tmp_path / "own") + published("sglang_qwen3vl", tmp_path / "theirs")
    assert len(records) == 9 + 4
    validator = jsonschema.Draft7Validator(SCHEMA)
    for path in records:
        record = json.loads(path.read_text())
        assert not list(validator.iter_errors(record)), path
        place = path.relative_to(path.parents[4]).as_posix()
        assert PLACE.fullmatch(place)
        assert "/".join(place.split("/")[2:4]) == record["model_info"]["id"]
    own, theirs = (json.loads(path.read_text()) for path in (records[0], records[-1]))
    assert own["source_metadata"]["source_type"] == "evaluation_run"
    assert theirs["source_metadata"]["source_type"] == "documentation"
    assert "pull request 20857" in theirs["source_metadata"]["source_name"]
    del own["model_info"]["additional_details"]["deployment_type"]
    assert list(validator.iter_errors(own))  # the check can fail


def test_a_second_run_writes_the_same_files(grid, tmp_path):
    first, again = published(grid, tmp_path / "out"), published(grid, tmp_path / "out")
    assert first == again


def test_the_card_has_front_matter_the_fit_and_every_column(grid, tmp_path):
    published(grid, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["configs"] == [{"config_name": "default", "data_files": "measurements.csv"}]
    assert "| reasoning | " in body and "rho = alpha / beta" in body and "results, measured by Our Lab" in body
    header = (tmp_path / "out" / "measurements.csv").read_text().splitlines()[0].split(",")
    assert all(f"| `{name}` |" in body for name in header)


def test_a_table_without_a_law_says_so_on_its_card(tmp_path):
    published("uniprunebench_qwen25vl", tmp_path / "out")
    assert "too few cells: 2" in (tmp_path / "out" / "README.md").read_text()


def test_wrong_folders_are_refused(grid, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["law", "publish", str(tmp_path / "empty"), str(tmp_path / "out"), *AS]) == 2
    assert "has no measurements.csv" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.txt").write_text("mine")
    assert main(["law", "publish", str(grid), str(tmp_path / "other"), *AS]) == 2
    assert "holds other files; give a new folder" in capsys.readouterr().err
    assert main(["law", "publish", str(grid), str(tmp_path / "out"), "--organization", "..."]) == 2
    assert "'...' makes no name of a folder" in capsys.readouterr().err
