"""What the workflow adds to the work: wall time of the last run against its jobs' own compute, and where the rest goes.

    python benchmarks/overhead.py [results] [--cores N]

Reads Snakemake's records of when each job started and ended, and the CPU time of its benchmark file. A job's start (the
interpreter and its imports) is measured here, once for each stage; the rest of its time is its own.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

MODULE_OF_RULE = {
    "draw_pictures": "vlmlaw.data.miniature.write",
    "write_text": "vlmlaw.data.miniature.write",
    "build_tokenizer": "vlmlaw.data.miniature.write",
    "tokenize": "vlmlaw.tokens.token_table",
    "train_encoder": "vlmlaw.training.encoder",
    "cache_features": "vlmlaw.vlm.images",
    "pretrain_language_model": "vlmlaw.training.language_model",
    "train_cell": "vlmlaw.training.cell",
    "evaluate_cell": "vlmlaw.evaluation.test_split",
    "collect_measurements": "vlmlaw.evaluation.measurements",
    "fit_law": "vlmlaw.laws.analysis",
    "write_headline": "vlmlaw.workflow.dvc_metrics",
    "write_report": "vlmlaw.report.page",
}


def read_jobs(results: Path) -> pd.DataFrame:
    """One row for each job of the results folder: rule, log, start, end and CPU seconds."""
    found = {}
    for path in Path(".snakemake/metadata").rglob("*"):
        record = json.loads(path.read_text()) if path.is_file() else {}
        log = (record.get("log") or [""])[0]
        if log.startswith(f"{results}/"):
            found[log] = (record["rule"], log, record["starttime"], record["endtime"])
    if not found:
        sys.exit(f"no records of jobs that wrote into {results}/; run `snakemake --cores all` here first")
    jobs = pd.DataFrame(found.values(), columns=["rule", "log", "start", "end"])
    tables = [Path(log.replace("/logs/", "/benchmarks/", 1)).with_suffix(".tsv") for log in jobs.log]
    jobs["cpu"] = [float(pd.read_csv(table, sep="\t").cpu_time.iloc[0]) if table.exists() else 0.0 for table in tables]
    return jobs.assign(wall=jobs.end - jobs.start)


def start_seconds(module: str) -> float:
    """Least wall time of three to start Python and import a stage."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", nargs="?", default="results")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    args = parser.parse_args()
    jobs = read_jobs(Path(args.results))
    starts = {module: start_seconds(module) for module in {MODULE_OF_RULE[rule] for rule in jobs.rule}}
    jobs["starting"] = [
        min(wall, starts[MODULE_OF_RULE[rule]]) for rule, wall in zip(jobs.rule, jobs.wall, strict=True)
    ]
    jobs["own"] = jobs.wall - jobs.starting
    table = jobs.groupby("rule", sort=False).agg(
        jobs=("wall", "size"),
        wall=("wall", "sum"),
        cpu=("cpu", "sum"),
        starting=("starting", "sum"),
        own=("own", "sum"),
    )
    print(table.sort_values("wall", ascending=False).round(1).to_string())
    span = jobs.end.max() - jobs.start.min()
    busy, own = jobs.wall.sum() / args.cores, jobs.own.sum() / args.cores
    print(f"\nwall time, first job's start to last job's end   {span:8.1f} s on {args.cores} cores")
    print(f"jobs' own compute / cores                        {own:8.1f} s")
    print(f"starting Python and importing / cores            {busy - own:8.1f} s")
    print(f"idle cores, scheduling                           {span - busy:8.1f} s")
    print(f"wall / own                                       {span / own:8.2f}")


if __name__ == "__main__":
    main()
