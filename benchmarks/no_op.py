"""What asking costs when there is nothing to do: `snakemake`, `dvc repro` and `dvc status` on finished grids.

    python benchmarks/no_op.py [--cells 28 280 2800]

Each grid is made by Snakemake itself from this checkout's rules, with stand-ins for the stages (tests/workflow/
standins.py) that run inside its process, so that 2,800 cells take minutes and not days; records, settings and hashes
are real. Then each tool is asked twice, the first time after a pull's new file times. Times include the tool's start.
Last, Snakemake is asked about a plain workflow of the same rules and files, with none of vlmlaw's code: its own share.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
FILES = ("Snakefile", "envs", "profiles", "src", "workflow", "dvc.yaml", ".dvc", ".dvcignore", ".gitignore")
TOOLS = {
    "snakemake": ["snakemake", "--cores", "1"],
    "dvc repro": ["dvc", "repro"],
    "dvc status": ["dvc", "status"],
}
N_SIZES, TOKENS = 7, [1, 4, 16, 36]
PLAIN = """\
import json

KNOWN = json.load(open("plain.json"))


def inputs_of(rule):
    return lambda wildcards: KNOWN["inputs"][" ".join([rule, *map(str, sorted(wildcards.items()))])]


rule all:
    input:
        KNOWN["targets"],


wildcard_constraints:
    **KNOWN["constraints"],
"""
PLAIN_RULE = """

rule {rule}:
    input:
        inputs_of("{rule}"),
    output:
        {outputs},
    shell:
        "true"
"""


def experiment(n_cells: int) -> dict:
    """The tiny experiment with seven sizes, four token counts and as many seeds as the cells need."""
    mapping = yaml.safe_load((ROOT / "workflow" / "experiments" / "tiny.yaml").read_text())
    sizes = {
        f"{n}k": {"hidden_size": 8 * n, "num_hidden_layers": 1, "num_attention_heads": 2} for n in range(1, N_SIZES + 1)
    }
    seeds = list(range(n_cells // (N_SIZES * len(TOKENS))))
    grid = {"visual_tokens": TOKENS, "compressors": ["average"], "seeds": seeds}
    return mapping | {"results": "results", "sizes": sizes, "grid": grid}


def make(folder: Path, n_cells: int) -> None:
    """A finished run of so many cells in `folder`, in a process of its own."""
    folder.mkdir(parents=True)
    for name in FILES:
        source, ignored = ROOT / name, shutil.ignore_patterns("__pycache__", "*.egg-info", "cache", "tmp")
        shutil.copytree(source, folder / name, ignore=ignored) if source.is_dir() else shutil.copy(source, folder)
    for rules in (folder / "workflow" / "rules").iterdir():  # no process of their own, so nothing to measure
        rules.write_text(re.sub(r"^ *benchmark:\n.*\n", "", rules.read_text(), flags=re.MULTILINE))
    (folder / "params.yaml").write_text(yaml.safe_dump(experiment(n_cells), sort_keys=False))
    (folder / "results").mkdir()
    for command in (["git", "init", "--quiet"], ["git", "add", "--all"]):
        subprocess.run(command, cwd=folder, check=True, env=environment())
    making = [sys.executable, __file__, "--make-here"]
    done = subprocess.run(making, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the grid could not be made:\n{(done.stdout + done.stderr)[-2000:]}")
    run(folder, "dvc", "commit", "--force")


def make_here() -> None:
    """Run Snakemake in this process and folder, with every `python -m vlmlaw ...` of a rule called in it."""
    sys.path[:0] = [str(Path("src").resolve()), str(ROOT / "tests" / "workflow")]
    import snakemake.cli
    import standins
    from snakemake.shell import shell
    from snakemake.utils import format as fill

    from vlmlaw.cli import law as laws_cli
    from vlmlaw.cli import main as command_line
    from vlmlaw.cli import report as report_cli
    from vlmlaw.cli import stages
    from vlmlaw.workflow import records

    records.commit = lambda: "benchmark"
    for module in (stages, report_cli):
        for name in ("run_report", *vars(standins)):
            if name.startswith("run_") and hasattr(module, name):
                setattr(module, name, getattr(standins, name))
    laws_cli.run_fit = lambda args: Path(args.out).write_text("{}") and None
    stages.run_headline = _write_headline

    def call(cls, command: str, **more: object) -> None:
        filled = fill(command, stepout=2, **more)
        plain = re.sub(r" (2>&1 \||>) .*", "", filled)  # no log
        words = subprocess.run(["bash", "-c", f"printf '%s\\0' {plain}"], check=True, capture_output=True, text=True)
        with contextlib.redirect_stdout(None):
            if status := command_line.main(words.stdout.split("\0")[3:-1]):
                raise RuntimeError(f"{plain} ended with {status}")

    shell.__new__ = call
    # It asks after the inputs of every job that is ready, each time that it chooses one: of a few here, not of all.
    snakemake.cli.main(["--cores", "1", "--scheduler-subsample", "20"])


def make_plain(folder: Path) -> None:
    """Put a workflow of the same rules and files in the place of the folder's own, with records by `--touch`."""
    from vlmlaw.workflow.plan import Plan
    from vlmlaw.workflow.stage import Read

    plan = Plan(yaml.safe_load((folder / "params.yaml").read_text()))
    waiting, inputs = [Read(rule) for rule in ("write_report", "write_headline", "write_cards")], {}
    for read in waiting:
        key = " ".join([read.rule, *map(str, sorted(read.wildcards.items()))])
        if key not in inputs:
            hidden = plan.cached_inputs(read.rule, read.wildcards)
            named = plan.inputs(read.rule).items()
            inputs[key] = [file for name, part in named if name not in hidden for file in part(read.wildcards)]
            waiting.extend(plan.lineage.reads(*read.job))
    lasting = [rule for rule in plan.rules if plan.stages[rule].lasts]
    # Some of a grid's cards, since Snakemake alone looks up all inputs for each output that it records.
    outputs = {rule: [*plan.outputs(rule)["files"][:20], plan.outputs(rule)["record"]] for rule in lasting}
    shown = {
        rule: ", ".join(f"directory({file!r})" if file.endswith("/") else repr(file) for file in files)
        for rule, files in outputs.items()
    }
    rules = [PLAIN_RULE.format(rule=rule, outputs=files) for rule, files in shown.items()]
    known = {"inputs": inputs, "targets": plan.targets, "constraints": plan.constraints()}
    (folder / "plain.json").write_text(json.dumps(known))
    (folder / "Snakefile").write_text((PLAIN + "".join(rules)).replace("<results>", plan.results))
    shutil.rmtree(folder / ".snakemake")
    run(folder, "snakemake", "--cores", "1", "--touch", "--forceall")


def _write_headline(args: argparse.Namespace) -> None:
    (args.out / "metrics").mkdir(parents=True, exist_ok=True)
    (args.out / "metrics" / "trainings.json").write_text("{}")
    (args.out / "errors.csv").write_text("suite,error\n")


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    dropped = ("PYTHONPATH", "SNAKEMAKE_PROFILE")
    return {key: value for key, value in os.environ.items() if key not in dropped} | {"PATH": path}


def run(folder: Path, *command: str) -> tuple[float, float]:
    """Wall and CPU seconds of a tool, whose children count too."""
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - began, cpu


def touch(folder: Path) -> None:
    """New times for all files, as after a pull."""
    for path in (folder / "results").rglob("*"):
        os.utime(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[28, 280])
    parser.add_argument("--make-here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make_here:
        return make_here()
    print("wall seconds (CPU seconds)")
    print(f"{'cells':>6}  {'':12}" + "".join(f"{name:>20}" for name in TOOLS))
    with tempfile.TemporaryDirectory() as scratch:
        bare = {name: run(Path(scratch), command[0], "--version") for name, command in TOOLS.items()}
        _row("", "bare start", bare)
        for n_cells in args.cells:
            folder = Path(scratch) / str(n_cells)
            make(folder, n_cells)
            touch(folder)
            _row(n_cells, "new times", {name: run(folder, *command) for name, command in TOOLS.items()})
            _row(n_cells, "nothing new", {name: run(folder, *command) for name, command in TOOLS.items()})
            records = [
                path.stat().st_size for path in (folder / ".snakemake" / "metadata").rglob("*") if path.is_file()
            ]
            print(f"{n_cells:>6}  Snakemake's records: {len(records)} files, {sum(records) / 1e6:.1f} MB")
            make_plain(folder)
            _row(n_cells, "plain", {"snakemake": run(folder, *TOOLS["snakemake"])})
    return None


def _row(n_cells: object, what: str, times: dict[str, tuple[float, float]]) -> None:
    shown = (f"{wall:.1f} ({cpu:.1f})" for wall, cpu in times.values())
    print(f"{n_cells:>6}  {what:12}" + "".join(f"{text:>20}" for text in shown), flush=True)


if __name__ == "__main__":
    main()
