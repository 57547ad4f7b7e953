"""Stages that take no time, for tests and benchmarks of which jobs run: what they write is made up, and looks right.

`use_standins(folder)` changes a copy of the workflow so that its jobs call these. Rules, records, settings and the
tools' own work stay real; fingerprints of the stages' code too, since they cover the modules that do the real work.
"""

import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np

from vlmlaw.errors import UserError
from vlmlaw.vlm.cell_name import cell_name

CALLED_INSTEAD = """

# Appended by a test: stages that take no time.
import sys as _sys

_sys.path.insert(0, {here!r})
from standins import *  # noqa: E402, F403
"""
FIGURES = (
    "error_against_tokens error_against_flops best_tokens contour grid kinds training predicted residuals profiles"
)


def use_standins(folder: Path) -> None:
    """Have the copy of the workflow in `folder` run stand-ins for all stages that train, draw or evaluate."""
    for module in ("cli/stages", "cli/report"):
        path = folder / "src" / "vlmlaw" / f"{module}.py"
        path.write_text(path.read_text() + CALLED_INSTEAD.format(here=str(Path(__file__).parent)))


def _write(path: Path, *made_from: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(hashlib.sha256(repr(made_from).encode()).digest() * 8)


def _read(*paths: Path) -> str:
    """Fails where an input is missing, as the real stages do."""
    digest = hashlib.sha256()
    for path in paths:
        for part in sorted(path.iterdir()) if path.is_dir() else [path]:
            if "record" not in part.name and part.is_file():
                digest.update(part.read_bytes())
    return digest.hexdigest()


def _model(folder: Path, *made_from: object, speaks: bool = True) -> None:
    names = ["model.safetensors", "config.json"]
    if speaks:
        names += ["generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
    for name in names:
        _write(folder / name, name, *(made_from if name == "model.safetensors" else ()))


def _account(path: Path, settings: str, **more: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    account = {
        "settings": json.loads(settings),
        "wall_seconds": 36.0,
        "cpu_seconds": 36.0,
        "compute": {"gpus": 1},
        **more,
    }
    path.write_text(json.dumps(account))


def run_pictures(args):
    for name in ("images-00000.tar", "index.npz", "conversations.json", "patch_labels.npz"):
        _write(args.out / name, name, args.split, args.settings)


def run_text(args):
    for name in ("conversations.json", "index.npz"):
        _write(args.out / name, name, args.settings)


def run_tokenizer(args):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        _write(args.out / name, name)


def run_tokenize(args):
    _write(args.out, _read(args.dataset, args.tokenizer), args.settings)


def run_encoder(args):
    _model(args.out, _read(args.train, args.development), args.settings, speaks=False)
    _account(args.out / "training.json", args.settings)


def run_features(args):
    for layer in args.layers:
        _write(args.out / f"layer{layer}.npy", layer, _read(args.encoder, args.dataset))


def run_language_model(args):
    _model(args.out, _read(args.tokens, args.tokenizer), args.settings)
    _account(args.out / "training.json", args.settings)


def run_train(args):
    if wait_for := os.environ.get("STANDIN_WAIT_FOR"):
        Path(f"{wait_for}.awaited").touch()
        while not Path(wait_for).exists():
            time.sleep(0.1)
    if args.out.name == os.environ.get("STANDIN_DIVERGES"):
        raise UserError("the loss is nan at step 7")
    aligned = [args.aligned] if args.aligned else []
    weights = _read(args.language_model, args.encoder, args.tokens, args.images, *aligned)
    _model(args.out / "model", weights, args.settings, args.code)
    _write(args.out / "model" / "processor_config.json")
    _write(args.out / "model" / "vlmlaw_cell.py")
    (args.out / "train.jsonl").write_text('{"step": 0, "loss": 1.0}\n')
    _account(args.out / "training.json", args.settings)


def run_prepare(args):
    for name in ("images-00000.tar", "index.npz", "conversations.json", "skipped.json"):
        _write(args.out / name, name, args.settings)


def run_fetch_tokenizer(args):
    run_tokenizer(args)


def run_fetch_vision(args):
    _write(args.out / "model.json", args.settings)


def run_fetch_language_model(args):
    run_tokenizer(args)
    _write(args.out / "model.json", args.settings)


def run_align(args):
    weights = _read(args.language_model, args.encoder, args.tokens, args.images)
    _write(args.out / "connector.safetensors", weights, args.settings)
    (args.out / "train.jsonl").write_text('{"step": 0, "loss": 1.0}\n')
    _account(args.out / "training.json", args.settings)


def run_evaluate(args):
    """error = .05 + .6 (N / 1000)^-alpha V^-beta with a little noise that the weights decide."""
    noise = np.random.default_rng(int(_read(args.model, args.dataset, args.tokens, args.images)[:8], 16))
    cell = json.loads((args.model.parent / "training.json").read_text())["settings"]
    n_params = 1000 * float("".join(filter(str.isdigit, cell["size"])))
    n_tokens = cell["n_visual_tokens"]
    scores = {}
    for suite, alpha, beta in (("reading", 0.1, 0.3), ("reasoning", 0.3, 0.1)):
        error = 0.05 + 0.6 * (n_params / 1000) ** -alpha * n_tokens**-beta + noise.normal(0, 0.002)
        scores[suite] = {"all": {"error": error, "error_se": 0.002, "n_questions": 100}}
    flops = {
        "llm": 2 * n_params * (n_tokens + 2),
        "vision": 1000,
        "compressor": 10,
        "projector": 10,
        "question_pass": 0,
    }
    result = {
        "cell": {name: cell[name] for name in ("size", "n_visual_tokens", "compressor", "seed")},
        "scores": scores,
        "training": cell_name(**{name: cell[name] for name in ("size", "n_visual_tokens", "compressor", "seed")}),
        "parameters": {"llm": int(2 * n_params), "llm_non_embedding": int(n_params)},
        "n_text_tokens": 2,
        "question_tokens": 1,
        "visual_tokens": float(cell["n_visual_tokens"]),
        "flops": flops,
        "train_seconds": 36.0,
        "train_cpu_seconds": 36.0,
    }
    args.out.write_text(json.dumps(result))


def run_cards(args):
    for evaluation in sorted(args.cells.glob("*/evaluation.json")):
        evaluation.with_name("README.md").write_text(f"# A card\n{_read(evaluation)}\n")
    if args.design:
        (args.cells / "README.md").write_text(f"# Cells\n{_read(args.design)}\n")


def run_report(args):
    _write(args.out / "index.html", _read(*map(Path, [*args.law, *args.measurements])), args.settings)
    for name in FIGURES.split():
        _write(args.out / "figures" / f"{name}.svg", name)
