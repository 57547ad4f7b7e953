"""Ask the cells of a finished study questions about pictures that they never saw, as one asks released models.

    python workflow/demo_measure.py [EXPERIMENT]

writes questions of the study's test split as files of one's own would be (JSON lines and PNG), and has `vlmlaw measure`
ask them of the first training of each size, at every V. The page is build/demo-measure/measured/index.html.
"""

import json
import shlex
import sys
from pathlib import Path

import torch
from PIL import Image

from vlmlaw.cli.main import main
from vlmlaw.data.shards import Dataset
from vlmlaw.errors import UserError
from vlmlaw.experiment.experiment import Experiment, read_experiment

N_QUESTIONS = 200  # one for each of as many images, so that intervals are as narrow as so few can make them
OUT = Path("build/demo-measure")
LONGEST = 6  # tokens of a reply; answers are a word


def demo(source: str) -> int:
    """Write the questions, ask them, return the exit status of `vlmlaw measure`. Raises UserError for no study."""
    experiment = read_experiment(source)
    cells = trained_cells(experiment)
    questions = write_questions(Path(experiment.results) / "data" / "test", OUT)
    elastic = all(training.n_visual_tokens is None for training in experiment.trainings.values())
    v = [str(n) for n in experiment.grid.visual_tokens[:-1]] if elastic else []
    command = ["measure", str(questions), "--images", str(OUT / "images"), "--metric", "exact_match"]
    command += ["--instruction", "", "--max-new-tokens", str(LONGEST), "--cost", "flops", "--worse-by", "0.05"]
    command += [word for cell in cells for word in ("--cell", str(cell))]
    command += ["--visual-tokens", "0", *v, "max", "--out", str(OUT / "measured")]
    print(f"vlmlaw {shlex.join(command)}\n", flush=True)
    torch.set_num_threads(experiment.compute.threads)  # as in training: more threads of a small model mostly wait
    return main(command)


def trained_cells(experiment: Experiment) -> list[Path]:
    """The folder of each size's first training. Raises UserError that names what the study lacks."""
    first = {training.size: name for name, training in reversed(experiment.trainings.items())}
    folders = [Path(experiment.results) / "cells" / first[size] for size in experiment.sizes if size in first]
    lacking = [folder for folder in folders if not (folder / "model" / "config.json").is_file()]
    if lacking or not folders:
        raise UserError(
            f"{experiment.name} is not finished: {len(lacking)} of {len(folders)} trainings that are asked here are "
            f"missing, such as {lacking[0] if lacking else experiment.results}. Run `make report` first, which trains "
            "them, or `dvc pull`."
        )
    return folders


def write_questions(split: Path, out: Path) -> Path:
    """Write one question for each of the first images of a split, and the images. Raises UserError where it is gone."""
    if not (split / "index.npz").is_file():
        raise UserError(f"{split} is not there: drawn data is a cache. `snakemake data --cores 2` draws it again.")
    data = Dataset(split)
    (out / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for place, record in enumerate(data.records[:N_QUESTIONS]):
        image = f"{record.image}.png"
        Image.fromarray(data.image(data.image_row(record))).save(out / "images" / image)
        own = place % len(record.questions)
        text = "\n".join(part for part in (record.context, record.questions[own]) if part)
        rows.append({"id": record.id, "image": image, "question": text, "answer": record.answers[own]})
        rows[-1]["kind"] = record.suite
    questions = out / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return questions


if __name__ == "__main__":
    try:
        sys.exit(demo(sys.argv[1] if len(sys.argv) > 1 else "params.yaml"))
    except UserError as error:
        sys.exit(f"demo-measure: {error}")
