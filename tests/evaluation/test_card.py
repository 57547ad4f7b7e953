import json
import re

import pytest

from vlmlaw.cli.main import main
from vlmlaw.data.miniature.write import build_tokenizer
from vlmlaw.evaluation.card import write_card

NAMED = {"size": "0.5b", "n_visual_tokens": 16, "compressor": "quecc", "seed": 3}
PLAN = {"batch_size": 4, "learning_rate": 1e-3, "new_learning_rate": 2e-3, "warmup_share": 0.03, "dtype": "bfloat16"}
TRAINING = {
    "settings": NAMED | {"training": PLAN},
    "versions": {"torch": "2.13"},
    "steps": 5187,
    "last_loss": 1.25,
    "wall_seconds": 7200.0,
    "origins": {
        "language_model": {"source": "Qwen/Qwen2.5-0.5B-Instruct", "commit": "0a1b"},
        "vision_tower": {"source": "folder/clip", "commit": ""},
    },
}
PARAMETERS = {"llm": 494_032_768, "llm_non_embedding": 357_898_112, "vision": 7, "compressor": 5, "projector": 6}


def evaluation(suite, kind, error, **changed):
    return {
        "cell": NAMED | {"compressor_options": {}} | changed,
        "parameters": PARAMETERS,
        "scores": {suite: {kind: {"error": error, "error_se": 0.0101, "n_questions": 300}}},
    }


@pytest.fixture
def model(tmp_path):
    (tmp_path / "training.json").write_text(json.dumps(TRAINING))
    return tmp_path / "model"


def test_a_card_tells_a_cells_numbers(model, tmp_path):
    write_card({"the test split": [evaluation("reading", "all", 0.1234)]}, model, tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: transformers\n")
    assert "# 0.5b_v16_quecc_s3" in text and "as 16 visual tokens (quecc)" in text
    assert "## Errors on the test split" in text and "| reading | all | 0.123 | 0.010 | 300 |" in text
    assert "494,032,768 parameters" in text and "5,187 steps of 4 records" in text and "11 between" in text
    assert "- Language model: Qwen/Qwen2.5-0.5B-Instruct at commit 0a1b.\n- Vision tower: folder/clip.\n" in text
    assert 'from_pretrained("model")' in text
    assert '"text": "What is this?"' in text and 'vlmlaw chat . image.png "What is this?"' in text


def test_a_cell_of_the_miniature_is_asked_in_words_that_it_knows(model, tmp_path):
    """Its tokenizer has the words of its data alone: of any other question it reads unknown words."""
    (tmp_path / "training.json").write_text(json.dumps(TRAINING | {"origins": {}}))
    write_card({"the test split": [evaluation("reading", "all", 0.1234)]}, model, tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text()
    question = re.search(r'"type": "text", "text": "(.*?)"', text)[1]
    assert f'vlmlaw chat . image.png "{question}"' in text
    known = build_tokenizer().get_vocab()
    assert all(word in known for word in question.split())


def test_a_cell_of_shared_weights_says_how_to_load_it_as_that_cell(model, tmp_path):
    shared = evaluation("reading", "all", 0.5, n_visual_tokens=1, compressor="fastv", compressor_options={"layer": 2})
    write_card({"the test split": [shared]}, model, tmp_path / "other" / "README.md")
    text = (tmp_path / "other" / "README.md").read_text()
    assert "# 0.5b_v1_fastv_s3" in text and "as 1 visual token (fastv)" in text
    assert "the weights are those of 0.5b_v16_quecc_s3" in text.lower()
    assert "cell = {'compressor': 'fastv', 'n_visual_tokens': 1, 'compressor_options': {'layer': 2}}" in text
    assert 'from_pretrained("../model", **cell)' in text
    assert 'pipeline("image-text-to-text", model=model, processor=processor)' in text


def card(model, *scores):
    return main(["card", "--model", str(model), "--out", str(model.parent / "README.md"), *map(str, scores)])


def test_benchmarks_are_enough_for_a_card(model, tmp_path, capsys):
    model.mkdir()
    (model / "config.json").touch()
    files = [tmp_path / "pope.json", tmp_path / "textvqa.json"]
    files[0].write_text(json.dumps(evaluation("reasoning", "pope", 0.25)))
    files[1].write_text(json.dumps(evaluation("reading", "textvqa", 0.5)))
    assert card(model, *files) == 0
    text = (tmp_path / "README.md").read_text()
    assert "## Errors on benchmarks" in text
    assert text.index("| reading | textvqa | 0.500 |") < text.index("| reasoning | pope | 0.250 |")

    files[1].write_text(json.dumps(evaluation("reading", "textvqa", 0.5, n_visual_tokens=4)))
    assert card(model, *files) == 2
    assert f"{files[1]}: of another cell than {files[0]}" in capsys.readouterr().err
    files[1].write_text('{"scores": 3}')
    assert card(model, *files) == 2
    assert f"{files[1]} is no evaluation of a cell" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == text
