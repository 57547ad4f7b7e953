"""A finished run that nobody ran: measurements that follow a known law, accounts of trainings, and a few pictures."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from vlmlaw.laws.analysis import analyse
from vlmlaw.laws.options import LawOptions
from vlmlaw.laws.table import read_measurements

SIZES = {"56k": 55_296, "150k": 147_456, "310k": 307_200, "600k": 602_112}
TOKENS = (1, 4, 9, 16, 36, 144)
HELD_OUT = "600k"
EXPONENTS = {"reasoning": (0.55, 0.12), "reading": (0.10, 0.55)}  # a and b of the logit
START = {"reasoning": 5.2, "reading": -0.8}
KINDS = {
    "reasoning": {"look-up": 0.6, "count": -0.2, "larger": 0.1, "sum": -0.9},
    "reading": {"2x2": 1.4, "4x4": 0.4, "6x6": -0.3, "12x12": -1.2},
}
N_QUESTIONS = 4000
EXPERIMENT = '{"name": "made", "data": {"source": "miniature", "images": {"test": 12}}}'
QUICK = {"bootstrap_draws": 100, "question_tokens": [0, 8, 25, 50], "candidates": ["logit", "power"]}
WHERE = {"compressor": "block_linear"}


def rows_of_cell(size: str, v: int, compressor: str, seed: int, rng: np.random.Generator) -> list[dict]:
    n = SIZES[size]
    common = {
        "cell": f"{size}_v{v}_{compressor}_s{seed}",
        "size": size,
        "seed": seed,
        "compressor": compressor,
        "n_visual_tokens": v,
        "n_params": n,
        "n_params_total": n + 25_000,
        "n_text_tokens": 8,
        "llm_flops": int(2.2 * n * (8 + v)),
        "vision_flops": 31_000_000,
        "compressor_flops": 400_000 + 9_000 * v,
        "held_out": size == HELD_OUT,
        "train_seconds": round(10 + n / 2e4 + v / 4, 1),
    }
    rows = []
    for suite, kinds in KINDS.items():
        a, b = EXPONENTS[suite]
        index = START[suite] + a * np.log(n / 1e9) + b * np.log(v) - 0.15 * (compressor == "quecc")
        for kind, shift in {"all": 0.0, **kinds}.items():
            true = 1 / (1 + np.exp(index + shift))
            asked = N_QUESTIONS if kind == "all" else N_QUESTIONS // len(kinds)
            error = float(np.clip(true + rng.normal(0, 0.006), 0.001, 0.999))
            se = round(float(np.sqrt(error * (1 - error) / asked)) * 1.3, 5)
            score = {"error": round(error, 5), "error_se": se, "n_questions": asked}
            rows.append(common | {"suite": suite, "kind": kind} | score)
    return rows


def write_measurements(path: Path, *, without: tuple[str, ...] = ()) -> list[str]:
    """Write a grid's measurements; returns the cells' names. `without` names cells that failed."""
    rng = np.random.default_rng(0)
    cells = [(size, v, "block_linear", 0) for size in SIZES for v in TOKENS]
    cells += [("56k", v, "block_linear", 1) for v in (1, 16)] + [("56k", v, "quecc", 0) for v in (1, 16)]
    rows = [row for cell in cells for row in rows_of_cell(*cell, rng)]
    table = pd.DataFrame(rows)
    table = table[~table["cell"].isin(without)]
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
    return list(dict.fromkeys(table["cell"]))


def write_law(measurements: Path, out: Path, **options: object) -> dict:
    """The law of the first compressor's cells alone (`--where`); the other has too few for its own."""
    chosen = LawOptions.from_mapping({**QUICK, **options})
    return analyse(read_measurements(measurements).select(**WHERE), chosen, out=out)


def write_training(folder: Path, settings: dict, *, steps: int, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    loss = 3 * np.exp(-np.arange(steps) / (steps / 3)) + 0.4
    loss += np.random.default_rng(seed).normal(0, 0.1, steps)
    lines = [json.dumps({"step": i, "loss": float(x), "gradient_norm": 1.0, "rate": 1.0}) for i, x in enumerate(loss)]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    spent = {"wall_seconds": 12.5, "cpu_seconds": 12.1, "peak_memory_mib": 612.0, "last_loss": float(loss[-1])}
    versions = {"python": "3.11.2", "torch": "2.11.0", "transformers": "5.17.0"}
    account = {"settings": settings, "versions": versions, "threads": 1, "steps": steps} | spent
    (folder / "training.json").write_text(json.dumps(account))


def write_cells(folder: Path, names: list[str], *, steps: int = 200) -> None:
    for place, name in enumerate(names):
        size, v, rest = name.split("_", 2)
        compressor, seed = rest.rsplit("_s", 1)
        settings = {
            "size": size,
            "n_visual_tokens": int(v[1:]),
            "compressor": compressor,
            "seed": int(seed),
            "training": {"steps": steps},
        }
        write_training(folder / name, settings, steps=steps, seed=place)


def write_pictures(folder: Path, *, n_images: int = 12) -> None:
    from vlmlaw.data.shards import Record, ShardWriter

    rng = np.random.default_rng(1)
    with ShardWriter(folder) as writer:
        for row in range(n_images):
            suite = ("reasoning", "reading")[row % 2]
            name = f"test-{suite}-{row:06d}"
            writer.add_image(name, rng.integers(0, 255, (96, 96, 3), dtype=np.uint8))
            kinds = list(KINDS[suite])
            questions, answers = [f"{kind} what <is> it" for kind in kinds], ["red" for _ in kinds]
            writer.add_record(Record(name, tuple(questions), tuple(answers), name, "", suite, tuple(kinds)))


def write_run(folder: Path, **law_options: object) -> Path:
    """Everything that a finished run has before its report."""
    names = write_measurements(folder / "measurements.csv")
    write_law(folder / "measurements.csv", folder / "law" / "law.json", **{"allow_missing": True, **law_options})
    write_cells(folder / "cells", names)
    write_training(folder / "encoder", {"training": {"steps": 100}}, steps=100, seed=1)
    for size in SIZES:
        write_training(folder / "language_models" / size, {"pretraining": {"steps": 50}}, steps=50, seed=2)
    write_pictures(folder / "data" / "test")
    return folder
