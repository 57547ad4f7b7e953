"""lmms-eval, in an environment of its own: cells as one of its models, its scores as measurements.

Its plug-in entry point (group `lmms_eval.models`) is `manifest`; the model class is in `model.py`. Written for
lmms-eval 0.7 (github.com/EvolvingLMMs-Lab/lmms-eval).
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.evaluation.scores import Score
from vlmlaw.evaluation.suites import BENCHMARKS, Benchmark, benchmark_of_task
from vlmlaw.runtime.source import import_path
from vlmlaw.runtime.whole_files import whole_file
from vlmlaw.tokens.prompt import bare

MODEL_ID = "vlmlaw"
PYTHON = "VLMLAW_LMMS_PYTHON"  # the interpreter of lmms-eval's environment, where it is another


def manifest() -> Any:
    """What lmms-eval's registry of models asks a plug-in for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=MODEL_ID, simple_class_path="vlmlaw.evaluation.lmms_eval.model.VlmlawModel")


def launch() -> None:
    """lmms-eval's command line with our model in its registry, also where this package is on the path only."""
    from lmms_eval.__main__ import cli_evaluate
    from lmms_eval.models import MODEL_REGISTRY_V2

    MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)
    cli_evaluate()


def run_lmms_eval(model: Path, out: Path, *, name: str, dtype: str, batch_size: int, tasks: Path | None = None) -> None:
    """Run a benchmark's task of lmms-eval on a cell and write its measurements to `out`.

    `tasks` is a folder of tasks beside lmms-eval's own. Raises UserError where lmms-eval is not installed or fails;
    what it printed is on stderr.
    """
    task = BENCHMARKS[name].task
    python = os.environ.get(PYTHON, sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-c", f"from {__name__} import launch; launch()"]
        command += ["--model", MODEL_ID, "--model_args", f"pretrained={model},dtype={dtype}"]
        command += ["--tasks", task, "--batch_size", str(batch_size), "--output_path", folder, "--log_samples"]
        command += ["--include_path", str(tasks)] if tasks else []
        source = import_path()
        path = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=False)
        results = sorted(Path(folder).rglob("*_results.json"))
        if done.returncode or not results:
            raise UserError(
                f"lmms-eval ended with status {done.returncode} and {len(results)} result files on {task}; see above. "
                f"Install it by envs/lmms-eval.yaml, and name its interpreter in {PYTHON} where that is another one."
            )
        (written,) = import_results(results[-1], model, out.parent, names={task: out.stem})
        assert written == out


def import_results(
    results: Path,
    model: Path,
    out: Path,
    *,
    extra: Mapping[str, Benchmark] | None = None,
    names: Mapping[str, str] | None = None,
    n_text_tokens: int | None = None,
    partial: bool = False,
) -> list[Path]:
    """Write `out`/NAME.json for each benchmark in a results file of lmms-eval, and return the files.

    `extra` are benchmarks by task, beyond the table. With `partial` runs of some of the questions are taken, too.
    Raises UserError for a file that is none, a task without a row in the table, a score that is missing.
    """
    found = _read(results)
    extra, names = dict(extra or {}), dict(names or {})
    tasks = [task for task in found["results"] if task not in _groups(found)]
    known = {task: extra.get(task) or BENCHMARKS[benchmark_of_task(task)] for task in tasks}
    if not known:
        raise UserError(f"{results} holds no task's scores.")
    scores = {task: _score(found, task, benchmark, results, partial=partial) for task, benchmark in known.items()}
    described = _describe(model, results, list(known), n_text_tokens)
    written = []
    for task, benchmark in known.items():
        name = names.get(task) or (task if task in extra else benchmark_of_task(task))
        result = {"scores": {benchmark.suite: {name: asdict(scores[task])}}, "lmms_eval": {"task": task}}
        path = out / f"{name}.json"
        with whole_file(path) as unfinished:
            unfinished.write_text(json.dumps(result | described[task], indent=2))
        written.append(path)
    return written


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found["results"], dict) and isinstance(found["n-samples"], dict):
            return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no result of lmms-eval ({error!r}); expected its ..._results.json.") from error
    raise UserError(f"{path} is no result of lmms-eval; expected its ..._results.json with `results` and `n-samples`.")


def _groups(found: Mapping[str, Any]) -> set[str]:
    """Names that only stand for several tasks."""
    return {name for name, tasks in found.get("group_subtasks", {}).items() if tasks}


def _score(found: Mapping[str, Any], task: str, benchmark: Benchmark, path: Path, *, partial: bool) -> Score:
    """The error by the benchmark's formula. Its standard error is lmms-eval's, or else the binomial one.

    No score in [0, 1] of n independent questions has a larger variance than p (1 - p) / n (Bhatia & Davis 2000).
    """
    counts = found["n-samples"].get(task, {})
    n_asked, n_all = counts.get("effective"), counts.get("original")
    if not n_asked or (n_asked != n_all and not partial):
        raise UserError(
            f"{path}, {task}: {n_asked} of {n_all} questions were asked; a limited run is not the benchmark. "
            "Run it without --limit, or say --partial to take it all the same."
        )
    own = found["results"][task]
    parts = {name: _value(own, name, where=f"{path}, {task}") for name in benchmark.parts}
    try:
        error = benchmark.error(parts)
    except ValueError as wrong:
        raise UserError(f"{path}, {task}: {wrong}; is it another version of the task?") from wrong
    se = _reported_se(own, next(iter(benchmark.parts))) if benchmark.reports_se else None
    if se is None:
        se = math.sqrt(error * (1 - error) * benchmark.n_per_image / n_asked)
    return Score(error, se, n_asked)


def _value(scores: Mapping[str, Any], name: str, *, where: str) -> float:
    """The one score of that name, under whichever filter of replies."""
    values = {key: value for key, value in scores.items() if key.partition(",")[0] == name}
    if len(values) > 1:
        values = {key: value for key, value in values.items() if key == f"{name},none"}
    if len(values) != 1 or not _is_number(value := next(iter(values.values()))):
        there = ", ".join(key for key in scores if "stderr" not in key)
        raise UserError(f"{where}: {name} is missing, not a number or there under several filters; there are {there}.")
    return float(value)


def _reported_se(scores: Mapping[str, Any], name: str) -> float | None:
    """lmms-eval's standard error, the one clustered by image before the plain ones."""
    for kind in ("stderr_clustered", "stderr_clt", "stderr"):
        values = [value for key, value in scores.items() if key.partition(",")[0] == f"{name}_{kind}"]
        if len(values) == 1 and _is_number(values[0]):
            return float(values[0])
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _describe(model: Path, results: Path, tasks: Sequence[str], n_text_tokens: int | None) -> dict[str, dict[str, Any]]:
    """For each task, which cell it is and what a question costs; Q is counted on the samples that were logged."""
    lengths = {task: _mean_lengths(model, results, task, n_text_tokens) for task in tasks}
    from vlmlaw.evaluation.cell_facts import describe_cell
    from vlmlaw.vlm.load import load_cell

    vlm, _ = load_cell(model, dtype="float32")
    return {
        task: describe_cell(vlm, model, n_text_tokens=n_text, question_tokens=n_asked)
        for task, (n_text, n_asked) in lengths.items()
    }


def _samples(results: Path, task: str) -> Path:
    path = results.with_name(results.name.replace("_results.json", f"_samples_{task}.jsonl"))
    if not path.exists():
        raise UserError(
            f"{path} is missing, so how long the questions of {task} are is not known; run lmms-eval with "
            "--log_samples, or say it by --text-tokens."
        )
    return path


def _mean_lengths(model: Path, results: Path, task: str, n_text_tokens: int | None) -> tuple[int, int]:
    """Tokens of the prompts that were logged, and of the questions alone, on average and rounded, without images.

    With `n_text_tokens` given nothing is read, and a question counts as long as its prompt.
    """
    from vlmlaw.tokens.token_table import load_tokenizer
    from vlmlaw.vlm.generate import Prompter

    if n_text_tokens:
        return n_text_tokens, n_text_tokens
    samples = _samples(results, task)
    asked = [str(json.loads(line)["input"]) for line in samples.read_text(encoding="utf-8").splitlines() if line]
    words = load_tokenizer(model)
    prompter = Prompter(words, n_visual_tokens=1, image_token_id=-1)
    n_text = sum(prompter(said).n_text_tokens for said in asked)
    n_asked = sum(map(len, words([bare(said) for said in asked])["input_ids"]))
    return round(n_text / len(asked)), round(n_asked / len(asked))
