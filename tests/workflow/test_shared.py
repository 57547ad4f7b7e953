"""Cells that share one training: it is planned once, run for real, and each cell has its own figures."""

import json
import re
import subprocess

import pandas as pd
import pytest
from PIL import Image

from .project import Project, environment

pytestmark = pytest.mark.workflow
ELASTIC = {"sizes": ["3k"], "visual_tokens": [1, 4, 36], "compressors": ["m3", "mqt"]}
TRAINING_FREE = {"sizes": ["3k"], "visual_tokens": [4], "compressors": ["average_at_inference", "visionzip"]}
TAIL = {"collect_measurements": 1, "fit_law": 1, "write_headline": 1, "write_report": 1}


@pytest.fixture(scope="module")
def shared(finished_once, tmp_path_factory):
    """The finished run with elastic and training-free cells beside its own, made for real."""
    import shutil

    folder = tmp_path_factory.mktemp("shared") / "copy"
    shutil.copytree(finished_once.folder, folder)
    project = Project(folder)
    project.change("grid.more", [ELASTIC, TRAINING_FREE])
    project.change("sizes.3k.training", {"steps": 20})
    project.planned_first = project.planned()
    project.snakemake()
    return project


def test_one_training_serves_many_cells(shared):
    trained = shared.planned_first
    # Three cells of 3k for their new number of steps, and the one of all patches that nothing else asked for.
    assert (trained["train_cell"], trained["train_elastic"], trained["evaluate_cell"]) == (4, 2, 3 + 6 + 2)
    assert shared.planned() == {}


def test_each_cell_has_its_own_figures_and_names_its_training(shared):
    table = pd.read_csv(shared.folder / "results" / "measurements.csv")
    assert len(table.cell.unique()) == 9 + 6 + 2
    training = table.drop_duplicates("cell").set_index("cell").training
    assert training["14k_v4_block_linear_s0"] == "14k_v4_block_linear_s0"
    assert training["3k_v1_m3_s0"] == training["3k_v36_m3_s0"] == "3k_m3_s0"
    assert training["3k_v4_visionzip_s0"] == training["3k_v4_average_at_inference_s0"] == "3k_v144_none_s0"
    flops = table[(table.compressor == "mqt") & (table.kind == "all")].groupby("n_visual_tokens").llm_flops.first()
    assert flops.is_monotonic_increasing and flops.nunique() == 3
    evaluation = json.loads((shared.folder / "results/cells/3k_v4_visionzip_s0/evaluation.json").read_text())
    named = {"size": "3k", "n_visual_tokens": 4, "compressor": "visionzip", "seed": 0}
    assert evaluation["cell"] == named | {"compressor_options": {}}


def test_a_cells_card_says_how_to_ask_it(shared, tmp_path):
    """Of a cell with weights of its own, and of two whose weights others share, what stands there is run."""
    image, tools = str(tmp_path / "image.png"), environment() | {"PYTHONPATH": str(shared.folder / "src")}
    Image.new("RGB", (48, 48), "red").save(image)
    for cell in ("14k_v4_block_linear_s0", "3k_v4_visionzip_s0", "3k_v1_m3_s0"):
        folder = shared.folder / "results" / "cells" / cell

        def said(*command, folder=folder):
            done = subprocess.run(
                ["python", *command], cwd=folder, env=tools, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            return done.stdout.split()

        card = (folder / "README.md").read_text().replace("image.png", image)
        replied = said("-c", re.search(r"```python\n(.*?)```", card, re.DOTALL)[1])
        assert f'`vlmlaw chat . {image} "shape red"`' in card
        answer = said("-m", "vlmlaw", "chat", ".", image, "shape red")
        assert answer and replied == answer[:32]  # the reply alone, at most the card's 32 tokens
    assert shared.vlmlaw("chat", cell, image, "shape red").stdout.split() == answer


def test_another_v_of_an_elastic_compressor_trains_nothing(shared):
    before = shared.params["grid"]["more"]
    try:
        shared.change("grid.more", [ELASTIC | {"visual_tokens": [1, 4, 9, 36]}, TRAINING_FREE])
        assert shared.planned() == {"evaluate_cell": 2, "write_cards": 1} | TAIL
        shared.change("grid.more", [ELASTIC, TRAINING_FREE | {"visual_tokens": [4, 7], "compressors": ["visionzip"]}])
        assert shared.planned() == {"evaluate_cell": 1, "write_cards": 1} | TAIL
        shared.change("grid.more", [ELASTIC | {"seeds": [0, 1]}, TRAINING_FREE])
        assert shared.planned() == {"train_elastic": 2, "evaluate_cell": 6, "write_cards": 1} | TAIL
    finally:
        shared.change("grid.more", before)


def test_the_page_shows_the_shared_trainings(shared):
    page = (shared.folder / "results" / "report" / "index.html").read_text()
    assert "3k_m3_s0" in page and "3k_v144_none_s0" in page
