"""What a large grid costs the head process: a dry run of 1,000 cells, and how fast 200 jobs enter Slurm's queue.

    python benchmarks/cluster.py                    # the dry run
    python benchmarks/cluster.py --slurm            # and the queue, against a private Slurm (root, see tests/slurm)

The jobs are trivial and their partition starts none, so that the controller's and Snakemake's own time is measured.
"""

import argparse
import datetime
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
N_JOBS = 200
TRIVIAL = f"""
rule all:
    input: [f"out/{{i}}" for i in range({N_JOBS})]
rule trivial:
    output: "out/{{i}}"
    shell: "touch {{output}}"
"""


def grid_of_1000() -> dict:
    """The tiny experiment with ten sizes, four token counts and 25 seeds."""
    tiny = yaml.safe_load((ROOT / "workflow" / "experiments" / "tiny.yaml").read_text())
    sizes = {f"s{i}": {"hidden_size": 16 * i, "num_hidden_layers": 2, "num_attention_heads": 2} for i in range(1, 11)}
    grid = {"visual_tokens": [1, 4, 9, 36], "compressors": ["block_linear"], "seeds": list(range(25))}
    return tiny | {"sizes": sizes, "grid": grid, "results": "results"}


def snakemake(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", *arguments]


def dry_run_seconds(folder: Path) -> tuple[float, float, int]:
    """Wall seconds, CPU seconds and number of jobs of a dry run of 1,000 cells through the Slurm profile."""
    (folder / "experiment.yaml").write_text(yaml.safe_dump(grid_of_1000()))
    profile = ["--profile", str(ROOT / "workflow" / "profiles" / "slurm")]
    where = ["--snakefile", str(ROOT / "Snakefile"), "--workflow-profile", str(ROOT / "profiles" / "default")]
    command = snakemake("--dry-run", "--quiet", "rules", "--configfile", "experiment.yaml", *profile, *where)
    began, before = time.perf_counter(), os.times()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - began, os.times()
    text = done.stdout + done.stderr
    found = re.search(r"^total +(\d+)$", text, re.MULTILINE)
    if done.returncode != 0 or found is None:
        sys.exit(f"the dry run failed:\n{text[-3000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu, int(found.group(1))


def submission_seconds(folder: Path) -> float:
    """Seconds between the first and the last of the submissions of 200 jobs."""
    (folder / "Snakefile").write_text(TRIVIAL)
    command = snakemake(
        "--executor", "slurm", "--jobs", str(N_JOBS), "--slurm-status-command", "squeue", "--quiet", "rules"
    )
    command += ["--default-resources", "mem_mb=100", "runtime=5", "slurm_partition=batch"]
    times = []
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as head:
        assert head.stdout is not None
        for line in head.stdout:
            times += [time.perf_counter()] if "has been submitted with SLURM jobid" in line else []
            if len(times) == N_JOBS:
                break
        os.killpg(head.pid, signal.SIGINT)  # Snakemake cancels its jobs
        head.communicate(timeout=300)
    if len(times) < N_JOBS:
        sys.exit(f"only {len(times)} of {N_JOBS} jobs were submitted")
    return times[-1] - times[0]


def measure_queue(folder: Path) -> float:
    """`submission_seconds` against a private Slurm whose partition accepts jobs and starts none."""
    sys.path.insert(0, str(ROOT / "tests"))
    from slurm.private_cluster import PrivateCluster

    cluster = PrivateCluster(folder / "slurm")
    cluster.up()
    try:
        subprocess.run(["scontrol", "update", "PartitionName=batch", "State=DOWN"], check=True)
        return submission_seconds(folder)
    finally:
        cluster.down()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slurm", action="store_true", help="measure the queue, too: starts a Slurm; needs root")
    args = parser.parse_args()
    os.environ.setdefault("PYTHONPATH", str(ROOT / "src"))
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu, n_jobs = dry_run_seconds(Path(folder))
        rows = [(f"dry run, 1,000 cells ({n_jobs:,} jobs)", f"{wall:.1f} s ({cpu:.1f} s of CPU)")]
    if args.slurm:
        with tempfile.TemporaryDirectory() as folder:
            seconds = measure_queue(Path(folder))
        rows.append((f"{N_JOBS} jobs into Slurm's queue", f"{seconds:.1f} s ({N_JOBS / seconds:.1f} a second)"))
    from snakemake import __version__

    load = os.getloadavg()[0]
    where = f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f}, Snakemake {__version__}"
    print(f"{datetime.date.today()}, {where}\n")
    print(*(f"| {what} | {figure} |" for what, figure in (("what", "measured"), ("---", "---"), *rows)), sep="\n")


if __name__ == "__main__":
    main()
