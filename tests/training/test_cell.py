"""A cell from its inputs to its figures: the same twice, interrupted or not, and what each output holds."""

import json
import os
import signal
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from small_cell import small_cell
from vlmlaw.evaluation.settings import EvaluationSettings
from vlmlaw.evaluation.test_split import evaluate_cell
from vlmlaw.tokens.token_table import load_tokenizer
from vlmlaw.training import batches
from vlmlaw.training.cell import build_vlm, train_cell
from vlmlaw.training.interruption import Stopped
from vlmlaw.training.language_model import pretrain, qwen2_config
from vlmlaw.training.settings import OptimizerSettings, SizeSettings, TrainingSettings

PLAN = TrainingSettings(
    steps=8, batch_size=4, learning_rate=3e-3, new_learning_rate=1e-2, weight_decay=0.1, checkpoint_seconds=1e9
)
SETTINGS = small_cell(PLAN)
QUECC = replace(SETTINGS, compressor="quecc", compressor_options={"n_heads": 4}, feature_layers=(1, 2))
ELASTIC = replace(SETTINGS, compressor="mqt", n_visual_tokens=None)
CHECKED = 2  # batches that the check before a training makes
MODEL_FILES = ["chat_template.jinja", "config.json", "generation_config.json", "model.safetensors"]


def train_and_evaluate(small, out, settings):
    """The cell's weights, log and figures without the times that they took."""
    train_cell(
        small.language_model, small.encoder, small.tokens["train"], small.features["train"], out, settings=settings
    )
    evaluate_cell(
        out / "model",
        small.data["test"],
        small.tokens["test"],
        small.features["test"],
        out / "evaluation.json",
        settings=EvaluationSettings(batch_size=4),
    )
    evaluation = json.loads((out / "evaluation.json").read_text())
    timeless = {name: value for name, value in evaluation.items() if "seconds" not in name}
    return (out / "model" / "model.safetensors").read_bytes(), (out / "train.jsonl").read_text(), timeless


@pytest.fixture(scope="module", params=[SETTINGS, QUECC, ELASTIC], ids=["block_linear", "quecc", "mqt"])
def settings(request):
    return request.param


@pytest.fixture(scope="module")
def cell(small, settings, tmp_path_factory):
    """A trained and evaluated cell's folder, and what is in it."""
    out = tmp_path_factory.mktemp("cells") / settings.name
    return out, train_and_evaluate(small, out, settings)


def test_a_cell_again_is_the_same_bit_for_bit(small, settings, cell, tmp_path):
    torch.manual_seed(1234)  # what other code has drawn before has no effect
    np.random.default_rng(1)
    assert train_and_evaluate(small, tmp_path / "again", settings) == cell[1]


def test_another_seed_is_another_cell(small, settings, cell, tmp_path):
    other = train_and_evaluate(small, tmp_path / "other", replace(settings, seed=1))
    assert other[0] != cell[1][0] and other[1] != cell[1][1]


def test_a_cell_stopped_and_resumed_is_the_same_bit_for_bit(small, settings, cell, tmp_path, monkeypatch):
    original, out = batches.make_batch, tmp_path / "cell"
    calls = []

    def stop_at_the_fourth(*args, **given):
        calls.append(1)
        if len(calls) == CHECKED + 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args, **given)

    monkeypatch.setattr(batches, "make_batch", stop_at_the_fourth)
    with pytest.raises(Stopped):
        train_and_evaluate(small, out, settings)
    assert not out.exists()
    assert (tmp_path / "cell.work" / "checkpoint-4" / "state.json").exists()
    assert train_and_evaluate(small, out, settings) == cell[1]
    assert len(calls) == PLAN.steps + 2 * CHECKED  # none of the steps was done twice
    assert not (tmp_path / "cell.work").exists()


def test_a_cell_says_what_it_was_made_from_and_took(settings, cell):
    account = json.loads((cell[0] / "training.json").read_text())
    assert account["settings"] == json.loads(json.dumps(asdict(settings)))
    assert account["steps"] == PLAN.steps and account["versions"]["torch"] == torch.__version__
    assert account["last_loss"] == json.loads(cell[1][1].splitlines()[-1])["loss"]
    names = ("wall_seconds", "cpu_seconds", "peak_memory_mib", "mfu", "tokens_per_second", "samples_per_second", "fill")
    assert min(account[name] for name in names) > 0
    assert account["gpu_hours"] == 0 and account["n_samples"] == PLAN.steps * PLAN.batch_size
    names = {path.name for path in (cell[0] / "model").iterdir()}
    assert names >= set(MODEL_FILES) and "tokenizer.json" in names


def test_training_lowers_the_loss(cell):
    losses = [json.loads(line)["loss"] for line in cell[1][1].splitlines()]
    assert len(losses) == PLAN.steps and losses[-1] < losses[0]


def test_the_tower_stays_as_it_was(small, cell):
    from transformers import AutoModel

    vlm = AutoModelForImageTextToText.from_pretrained(cell[0] / "model")
    for name, parameter in AutoModel.from_pretrained(small.encoder).named_parameters():
        assert torch.equal(vlm.vision_tower.get_parameter(name), parameter), name


@torch.no_grad()
def test_a_cell_answers_a_question_about_an_image(small, settings, cell):
    """From the saved folder alone: pixels and words in, a word out."""
    from vlmlaw.data.shards import Dataset
    from vlmlaw.training.encoder import normalise

    vlm = AutoModelForImageTextToText.from_pretrained(cell[0] / "model")
    words = AutoTokenizer.from_pretrained(cell[0] / "model")
    text = words.apply_chat_template(
        [{"role": "user", "content": "<image>" + " <image>" * 3 + " letter c7"}], tokenize=False
    )
    given = words(text, return_tensors="pt", return_token_type_ids=False)
    given["pixel_values"] = normalise(np.stack([Dataset(small.data["test"]).image(1)]))
    if vlm.compressor.needs_question:
        asked = words("letter c7", return_tensors="pt")
        given |= {"question_ids": asked["input_ids"], "question_mask": asked["attention_mask"]}
    said = vlm.generate(**given, n_visual_tokens=4, max_new_tokens=1, do_sample=False)
    assert words.decode(said[0]).startswith("<image> <image> <image> <image> letter c7 ")


def test_the_tokenizer_stays_what_it_was(words, cell):
    """A Qwen2 lies beside it on its way: AutoTokenizer would make it one of Qwen2's, which loses words."""
    text = "<image> owner red c7 <end>"
    assert AutoTokenizer.from_pretrained(cell[0] / "model")(text)["input_ids"] == words(text)["input_ids"]
    assert len(AutoTokenizer.from_pretrained(cell[0] / "model")) == len(words)


def test_a_step_of_m3_takes_the_mean_loss_of_every_scale(small, tmp_path):
    """With questions at V = 1, 9, 36 and 144 each computed alone, from the same start."""
    from vlmlaw.tokens.packing import make_batch, records_of_step
    from vlmlaw.tokens.token_table import TokenTable
    from vlmlaw.training.batches import model_inputs
    from vlmlaw.training.workspace import use_repeatable_arithmetic
    from vlmlaw.vlm.images import open_images

    settings = replace(SETTINGS, compressor="m3", n_visual_tokens=None, training=replace(PLAN, steps=1))
    train_and_evaluate(small, tmp_path / settings.name, settings)
    first = json.loads((tmp_path / "3k_m3_s0" / "train.jsonl").read_text().splitlines()[0])
    use_repeatable_arithmetic(settings.seed)
    vlm = build_vlm(small.language_model, small.encoder, settings=settings)
    table, images_of = (
        TokenTable.load(small.tokens["train"]),
        open_images(small.features["train"], layers=[2], image_px=96),
    )
    records = records_of_step(len(table), 4, seed=0, step=0)
    losses = []
    for n_tokens in (1, 9, 36, 144):
        batch = make_batch(table, records, n_visual_tokens=n_tokens, pad_id=0)
        inputs = model_inputs(batch, images_of(batch.image_rows))
        losses.append(vlm(**inputs, n_visual_tokens=n_tokens, use_cache=False).loss.item())
    assert first["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert len(set(losses)) == 4
    saved = AutoModelForImageTextToText.from_pretrained(tmp_path / "3k_m3_s0" / "model")
    assert saved.config.n_visual_tokens == 144
    evaluation = json.loads((tmp_path / "3k_m3_s0" / "evaluation.json").read_text())
    assert (evaluation["cell"]["n_visual_tokens"], evaluation["training"]) == (144, "3k_m3_s0")


def test_a_vlm_starts_from_its_parts(small):
    """Pretrained weights in their places, tied as they were; places start from the words for them."""
    from transformers import AutoModelForCausalLM

    from vlmlaw.data.miniature.canvas import place_words

    vlm = build_vlm(small.language_model, small.encoder, settings=SETTINGS)
    llm = AutoModelForCausalLM.from_pretrained(small.language_model)
    for name, parameter in llm.named_parameters():
        assert torch.equal(vlm.language_model.get_parameter(name), parameter), name
    assert vlm.get_output_embeddings().weight is vlm.get_input_embeddings().weight
    assert not any(p.requires_grad for p in vlm.vision_tower.parameters())
    words = load_tokenizer(small.language_model)
    ids = words.convert_tokens_to_ids(place_words())
    assert torch.equal(vlm.places.table.weight, vlm.get_input_embeddings().weight[ids])


def test_pretraining_twice_gives_the_same_model(small, tmp_path):
    plan = OptimizerSettings(steps=6, batch_size=4, learning_rate=1e-2, checkpoint_seconds=1e9)
    settings = SizeSettings(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, pretraining=plan, seed=0)
    for name in ("a", "b"):
        pretrain(small.tokens["text"], small.tokenizer, tmp_path / name, settings=settings)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]
    n_words = json.loads((tmp_path / "a" / "config.json").read_text())["vocab_size"]
    assert json.loads((tmp_path / "a" / "training.json").read_text())["last_loss"] < np.log(n_words)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}  # no workspace is left
    other = replace(settings, seed=1)
    pretrain(small.tokens["text"], small.tokenizer, tmp_path / "c", settings=other)
    assert (tmp_path / "c" / "model.safetensors").read_bytes() != weights[0]


def test_language_models_learn_their_own_loss(small):
    """The loss of a packed batch equals transformers' own on each question alone, weighted by its labels."""
    from transformers import Qwen2ForCausalLM

    from vlmlaw.data.miniature.write import vocabulary
    from vlmlaw.tokens.packing import make_batch, tensors
    from vlmlaw.tokens.token_table import IGNORE_INDEX, TokenTable
    from vlmlaw.training.language_model import answer_loss

    torch.manual_seed(0)
    config = qwen2_config(
        SizeSettings(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, pretraining=PLAN, seed=0),
        vocab_size=len(vocabulary()),
        pad_token_id=0,
        eos_token_id=2,
    )
    model = Qwen2ForCausalLM(config).eval()
    table = TokenTable.load(small.tokens["text"])
    records = [2, 5, 7]
    total, n_labels = 0.0, 0
    for record in records:
        own = slice(table.starts[record], table.starts[record + 1])
        for number in range(1, table.segments[own].max() + 1):
            seen = (table.segments[own] == 0) | (table.segments[own] == number)
            ids, targets = (torch.from_numpy(a[own][seen].astype(np.int64)) for a in (table.ids, table.targets))
            # One more place, whose label is the last target: transformers shifts labels by one.
            padded, labels = torch.cat([ids, ids[-1:]]), torch.cat([torch.tensor([IGNORE_INDEX]), targets])
            n_own = int((labels != IGNORE_INDEX).sum())
            total += float(model(input_ids=padded[None], labels=labels[None]).loss.detach()) * n_own
            n_labels += n_own
    batch = tensors(make_batch(table, records, n_visual_tokens=1, pad_id=0))
    assert float(answer_loss(model, batch).detach()) == pytest.approx(total / n_labels, abs=1e-5)
