"""Both stages, evaluation and export of one cell on the practice set."""

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, GenerationConfig

from vlmlaw.data.llava import prepare_split
from vlmlaw.data.settings import LlavaFile, SplitSettings, TokenSettings
from vlmlaw.data.shards import Dataset
from vlmlaw.errors import UserError
from vlmlaw.tokens.packing import make_batch
from vlmlaw.tokens.subset import held_out
from vlmlaw.tokens.token_table import TokenTable, load_tokenizer, tokenize_dataset
from vlmlaw.training.batches import model_inputs
from vlmlaw.training.cell import CONNECTOR, align_cell, build_vlm, load_connector, train_cell
from vlmlaw.training.settings import CellSettings, TrainingSettings, ValidationSettings
from vlmlaw.vlm.images import open_images

PLAN = TrainingSettings(steps=3, batch_size=4, learning_rate=1e-2, new_learning_rate=1e-2)
CELL = CellSettings(
    size="10k",
    n_visual_tokens=4,
    compressor="quecc",
    compressor_options={},
    seed=0,
    feature_layers=(1, 2),
    fit="pad",
    pad_color=(122, 116, 104),
    place_embedding=False,
    training=PLAN,
)
STAGE_1 = replace(CELL, trains_language_model=False)


@pytest.fixture(scope="module")
def trained(stages, tmp_path_factory) -> SimpleNamespace:
    """Both stages of the cell: the folders `aligned` and `cell`."""
    root = tmp_path_factory.mktemp("trained")
    models = (stages.language_model, stages.encoder)
    align_cell(*models, stages.tokens["align"], stages.data["align"], root / "aligned", settings=STAGE_1)
    train = (stages.tokens["train"], stages.data["train"])
    train_cell(*models, *train, root / "cell", settings=CELL, aligned=root / "aligned" / CONNECTOR)
    return SimpleNamespace(aligned=root / "aligned", cell=root / "cell")


def test_what_a_cell_began_as_is_told(trained, practice):
    for folder in (trained.aligned, trained.cell):
        origins = json.loads((folder / "training.json").read_text())["origins"]
        assert {part: of["source"] for part, of in origins.items()} == {
            "language_model": str(practice / "language_models" / "10k"),
            "vision_tower": str(practice / "vision"),
        }


def test_stage_1_trains_compressor_and_projector_alone(stages, trained):
    before = build_vlm(stages.language_model, stages.encoder, settings=STAGE_1)
    trainable = {name for name, p in before.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trainable} == {"compressor", "projector"}
    assert set(load_file(trained.aligned / CONNECTOR)) == trainable
    account = json.loads((trained.aligned / "training.json").read_text())
    assert account["steps"] == 3 and account["settings"]["trains_language_model"] is False
    assert len((trained.aligned / "train.jsonl").read_text().splitlines()) == 3


def test_both_stages_in_bfloat16_keep_float32_masters_and_save_what_they_compute_with(stages, tmp_path):
    plan = replace(PLAN, steps=1, dtype="bfloat16")
    models = (stages.language_model, stages.encoder)
    first, second = (replace(settings, training=plan) for settings in (STAGE_1, CELL))
    align_cell(*models, stages.tokens["align"], stages.data["align"], tmp_path / "aligned", settings=first)
    aligned = load_file(tmp_path / "aligned" / CONNECTOR)
    assert {weight.dtype for weight in aligned.values()} == {torch.float32}
    data = (stages.tokens["train"], stages.data["train"])
    # Its forward pass without gradients is the last thing before the model is saved.
    second = replace(second, validation=ValidationSettings(records=9, every=1))
    train_cell(*models, *data, tmp_path / "cell", settings=second, aligned=tmp_path / "aligned" / CONNECTOR)
    saved = load_file(tmp_path / "cell" / "model" / "model.safetensors")
    types = {(name.startswith("vision_tower."), weight.dtype) for name, weight in saved.items()}
    assert types == {(True, torch.float32), (False, torch.bfloat16)}  # the tower's as it was fetched
    start = build_vlm(*models, settings=second).state_dict()
    moved = {name for name in saved if not torch.equal(saved[name], start[name].to(saved[name].dtype))}
    assert {name.split(".")[0] for name in moved} == {"compressor", "projector", "language_model"}
    assert all(name in moved for name in saved if name.endswith("mlp.down_proj.weight"))


def test_a_cell_in_bfloat16_ends_its_replies_where_its_language_model_does(stages, tmp_path, monkeypatch):
    """Chat models name more ends in their generation settings than in their configuration."""

    def with_two_ends(*paths, settings):
        model = build_vlm(*paths, settings=settings)
        model.generation_config.eos_token_id = [3, 5]
        return model

    monkeypatch.setattr("vlmlaw.training.cell.build_vlm", with_two_ends)
    given = (stages.language_model, stages.encoder, stages.tokens["train"], stages.data["train"])
    train_cell(*given, tmp_path / "cell", settings=replace(CELL, training=replace(PLAN, steps=1, dtype="bfloat16")))
    assert GenerationConfig.from_pretrained(tmp_path / "cell" / "model").eos_token_id == [3, 5]


def test_stage_2_starts_from_stage_1s_weights(stages, trained):
    model = build_vlm(stages.language_model, stages.encoder, settings=replace(CELL, seed=5))
    load_connector(model, trained.aligned / CONNECTOR)
    saved = load_file(trained.aligned / CONNECTOR)
    assert all(torch.equal(dict(model.named_parameters())[name], value) for name, value in saved.items())
    assert all(p.requires_grad for p in model.language_model.parameters())
    assert not any(p.requires_grad for p in model.vision_tower.parameters())


def test_stage_2_changes_the_language_model_and_never_the_tower(stages, trained):
    before = build_vlm(stages.language_model, stages.encoder, settings=CELL).state_dict()
    after = load_file(trained.cell / "model" / "model.safetensors")
    same = {name: torch.equal(before[name], value) for name, value in after.items()}
    assert all(unchanged for name, unchanged in same.items() if name.startswith("vision_tower"))
    assert not any(unchanged for name, unchanged in same.items() if name.endswith("mlp.down_proj.weight"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b"no weights"), "cannot be read"),
        (lambda path: save_file({"projector.x": torch.zeros(1)}, path), "is of another compressor or size"),
    ],
)
def test_weights_that_are_no_stage_1_of_the_cell_are_refused(stages, tmp_path, spoil, message):
    path = tmp_path / CONNECTOR
    spoil(path)
    model = build_vlm(stages.language_model, stages.encoder, settings=CELL)
    with pytest.raises(UserError, match=message):
        load_connector(model, path)


def test_an_epoch_is_as_many_steps_as_batches_fill():
    plan = TrainingSettings(epochs=2, batch_size=10, learning_rate=1.0, new_learning_rate=1.0)
    assert [plan.steps_of(n) for n in (104, 100, 99, 3)] == [20, 20, 18, 2]
    assert PLAN.steps_of(1000) == 3


def test_images_of_another_size_than_the_tower_reads_are_refused(stages):
    images_of = open_images(stages.data["train"], layers=[2], image_px=32)
    with pytest.raises(UserError, match="is 64 x 64, but the tower reads squares of 32"):
        images_of(np.array([0]))


def test_a_cell_loads_by_transformers_auto_classes_and_sees_what_training_saw(stages, trained):
    from transformers import AutoProcessor

    from vlmlaw.tokens.packing import make_batch
    from vlmlaw.tokens.token_table import TokenTable
    from vlmlaw.training.batches import model_inputs

    model = AutoModelForImageTextToText.from_pretrained(trained.cell / "model").eval()
    processor = AutoProcessor.from_pretrained(trained.cell / "model")
    table, dataset = TokenTable.load(stages.tokens["train"]), Dataset(stages.data["train"])
    record = dataset.records[3]
    batch = make_batch(table, [3], n_visual_tokens=4, pad_id=0, reads_question=True)
    pixels = open_images(stages.data["train"], layers=[1, 2], image_px=64)(batch.image_rows)
    first = int(np.argmax(batch.targets[0] >= 0))  # the place that predicts the first answer's first token
    with torch.no_grad():
        inputs = model_inputs(batch, pixels) | {"targets": None}
        trained_on = model(**inputs, use_cache=False).logits[0, first]
    message = [{"role": "user", "content": f"<image>\n{record.questions[0]}"}]
    text = processor.apply_chat_template(message, add_generation_prompt=True)
    given = processor(text=text, images=Image.fromarray(dataset.image(3)))
    assert given["input_ids"].shape[1] == first + 1
    with torch.no_grad():
        asked = model(**given).logits[0, -1]
    torch.testing.assert_close(asked, trained_on, rtol=1e-4, atol=1e-4)


def test_the_processor_wants_an_image_for_each_place(trained):
    from transformers import AutoProcessor

    import vlmlaw.auto  # noqa: F401

    reader = AutoProcessor.from_pretrained(trained.cell / "model")
    with pytest.raises(ValueError, match="found 0 images for 1 <image> in the text"):
        reader(text="<image>\nWhat?")
    two = reader(text=["<image>\nWhat?", "Hello"], images=[[Image.new("RGB", (9, 5))], []])
    assert two["pixel_values"].shape == (1, 3, 64, 64) and two["input_ids"].shape[0] == 2
    assert two["attention_mask"][1, 0] == 0  # the shorter one is padded on the left


def test_chat_answers_a_question_about_an_image(trained, practice, capsys, tmp_path):
    from vlmlaw.cli.main import main

    image = str(next((practice / "images").rglob("*.jpg")))
    assert main(["chat", str(trained.cell), image, "What number is written?", "--max-new-tokens", "3"]) == 0
    assert "<|im_end|>" not in capsys.readouterr().out
    assert main(["chat", "no-such-cell", image, "Hm?", "--results", str(tmp_path)]) == 2
    assert "no trained cell is called 'no-such-cell'" in capsys.readouterr().err
    assert main(["chat", str(trained.cell), str(tmp_path / "none.png"), "Hm?"]) == 2
    assert "none.png cannot be read" in capsys.readouterr().err


def test_the_cells_tokenizer_is_the_grids(stages, trained):
    assert load_tokenizer(trained.cell / "model").get_vocab() == load_tokenizer(stages.tokenizer).get_vocab()


def test_stage_1_takes_texts_among_images_and_not_alone(stages, practice, tmp_path):
    """A step of a text alone has a gradient of zero; a whole file of them would train nothing."""
    texts = [row for row in json.loads((practice / "train.json").read_text()) if "image" not in row]
    pictured = json.loads((practice / "align.json").read_text())[:1]
    for name, rows in {"mixed": texts[:2] + pictured, "texts": texts[:2]}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
        file = LlavaFile(conversations=str(tmp_path / f"{name}.json"), images=str(practice / "images"))
        split = SplitSettings(files={"": file}, image_px=64, fit="pad", pad_color=(0, 0, 0))
        prepare_split(tmp_path / name, settings=split)
        options = TokenSettings(independent=False)
        tokenize_dataset(tmp_path / name, stages.tokenizer, tmp_path / f"{name}.npz", settings=options)
    settings = replace(STAGE_1, training=replace(PLAN, batch_size=1))
    models = (stages.language_model, stages.encoder)
    align_cell(*models, tmp_path / "mixed.npz", tmp_path / "mixed", tmp_path / "out", settings=settings)
    norms = [json.loads(line)["gradient_norm"] for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    assert sorted(norm > 0 for norm in norms) == [False, False, True]
    with pytest.raises(UserError, match=r"no record of .*texts\.npz shows an image, so stage 1 would learn nothing"):
        align_cell(*models, tmp_path / "texts.npz", tmp_path / "texts", tmp_path / "no", settings=settings)


def test_validation_is_the_mean_loss_of_records_that_are_not_learned_from(stages, tmp_path):
    """Against the saved model, one record at a time; the same training without them ends with the same weights."""
    table, n_steps = TokenTable.load(stages.tokens["train"]), PLAN.steps
    settings = replace(CELL, validation=ValidationSettings(records=9, every=2))
    models = (stages.language_model, stages.encoder)
    kept, apart = held_out(table, 9, source=tmp_path)
    assert len(kept) == len(table) - 9 and len(apart) == 9
    seen = {tuple(t.ids[a:b]) for t in (kept, apart) for a, b in itertools.pairwise(t.starts)}
    assert seen == {tuple(table.ids[a:b]) for a, b in itertools.pairwise(table.starts)}
    with (tmp_path / "kept.npz").open("wb") as file:
        kept.save(file)
    images = stages.data["train"]
    train_cell(*models, stages.tokens["train"], images, tmp_path / "validated", settings=settings)
    train_cell(*models, tmp_path / "kept.npz", images, tmp_path / "without", settings=CELL)
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("validated", "without")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0] | weights[1])

    lines = [json.loads(line) for line in (tmp_path / "validated" / "train.jsonl").read_text().splitlines()]
    due = [(step + 1) % 2 == 0 or step + 1 == n_steps for step in range(n_steps)]
    assert ["validation_loss" in line for line in lines] == due
    vlm = AutoModelForImageTextToText.from_pretrained(tmp_path / "validated" / "model").eval()
    images_of = open_images(images, layers=CELL.feature_layers, image_px=64)
    losses, n_targets = [], []
    for record in range(len(apart)):
        batch = make_batch(apart, [record], n_visual_tokens=4, pad_id=0, reads_question=True)
        with torch.no_grad():
            losses.append(vlm(**model_inputs(batch, images_of(batch.image_rows)), use_cache=False).loss.item())
        n_targets.append((batch.targets >= 0).sum())
    assert lines[-1]["validation_loss"] == pytest.approx(np.average(losses, weights=n_targets), rel=1e-4)
    with pytest.raises(UserError, match=r"has 104 records, and validation.records would hold out 104; hold out fewer"):
        too_many = replace(CELL, validation=ValidationSettings(records=104))
        train_cell(*models, stages.tokens["train"], images, tmp_path / "no", settings=too_many)
