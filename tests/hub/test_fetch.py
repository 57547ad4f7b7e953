import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vlmlaw.errors import UserError
from vlmlaw.hub.pins import PIN, open_model
from vlmlaw.hub.settings import ModelSettings, TokenizerSettings, TowerSettings
from vlmlaw.hub.shapes import config_of
from vlmlaw.settings import to_json
from vlmlaw.tokens.token_table import load_tokenizer
from vlmlaw.tokens.tokenizer import take_tokenizer
from vlmlaw.training.cell import build_vlm
from vlmlaw.training.pretrained import fetch_language_model, fetch_vision
from vlmlaw.training.settings import CellSettings, TrainingSettings
from vlmlaw.vlm.towers.features import patch_features
from vlmlaw.vlm.towers.load import load_tower, normalise, statistics_of

CELL = CellSettings(
    size="10k",
    n_visual_tokens=4,
    compressor="average",
    compressor_options={},
    seed=0,
    feature_layers=(2,),
    training=TrainingSettings(steps=1, batch_size=1, learning_rate=1.0, new_learning_rate=1.0),
    place_embedding=False,
)


@pytest.fixture
def model(practice, tmp_path):
    """A copy of a language model, to be spoilt, and the settings that name it."""
    folder = tmp_path / "model"
    shutil.copytree(practice / "language_models" / "10k", folder)
    return folder, ModelSettings(source=str(folder), dtype="float32")


@pytest.fixture
def tower(practice, tmp_path):
    folder = tmp_path / "tower"
    shutil.copytree(practice / "vision", folder)
    return folder, ModelSettings(source=str(folder), dtype="float32")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_model_is_pinned_not_copied_and_opened_from_where_it_is(stages, practice):
    files = {path.name for path in stages.language_model.iterdir()}
    assert PIN in files and "tokenizer.json" in files and not any(name.endswith(".safetensors") for name in files)
    opened = open_model(stages.language_model)
    assert opened.folder == practice / "language_models" / "10k" and not opened.trust_remote_code


def test_a_model_that_changed_since_it_was_fetched_is_refused(model, stages, tmp_path):
    folder, settings = model
    fetch_language_model(stages.tokenizer, tmp_path / "pin", settings=settings)
    weights = folder / "model.safetensors"
    spoilt = bytearray(weights.read_bytes())
    spoilt[-1] ^= 1
    weights.write_bytes(spoilt)
    with pytest.raises(UserError, match=r"model.safetensors is not what .*model.json was made from"):
        open_model(tmp_path / "pin")


def test_weights_that_must_be_unpickled_are_refused(model, stages, tmp_path):
    folder, settings = model
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="has no weights as safetensors, only formats that can run code"):
        fetch_language_model(stages.tokenizer, tmp_path / "pin", settings=settings)


def test_code_of_a_models_own_is_refused_unless_asked_for(model, stages, tmp_path):
    folder, settings = model
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "evil.Evil"})
    with pytest.raises(UserError, match=r"brings Python code of its own \(AutoModelForCausalLM\)"):
        fetch_language_model(stages.tokenizer, tmp_path / "pin", settings=settings)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nobody/nothing", r"nobody/nothing \(revision main\) is no folder here, and the hub does not give it: no net"),
        ("practice/vison", r"is no folder here \(practice has images, language_models, vision\), and the hub"),
        ("a/b/c", r"is no folder here, and the hub does not give it: Repo id must be in the form"),
    ],
)
def test_what_is_neither_a_folder_nor_of_the_hub_is_named(practice, monkeypatch, source, message):
    import huggingface_hub

    whole = huggingface_hub.snapshot_download

    def offline(repository, **options):
        if repository.count("/") > 1:
            return whole(repository, **options)  # which looks at the name before it asks
        raise OSError("no net\nhere")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    monkeypatch.chdir(practice.parent)
    for ask in (config_of, lambda source: fetch_vision(Path("out"), settings=ModelSettings(source=source))):
        with pytest.raises(UserError, match=message):
            ask(source)


def test_a_size_with_other_tokens_is_refused(model, stages, tmp_path):
    folder, settings = model
    words = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    first, second = sorted(vocabulary, key=vocabulary.get)[3:5]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (folder / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(UserError, match="another vocabulary than the grid's first size"):
        fetch_language_model(stages.tokenizer, tmp_path / "pin", settings=settings)


def test_a_tower_loads_as_clips_own_vision_model(stages, practice):
    from transformers import CLIPModel

    tower = load_tower(open_model(stages.encoder))
    whole = CLIPModel.from_pretrained(practice / "vision").eval()
    pixels = torch.rand(2, 3, 64, 64)
    found = tower(pixel_values=pixels, output_hidden_states=True)
    wanted = whole.vision_model(pixel_values=pixels, output_hidden_states=True)
    assert type(tower).__name__ == "CLIPVisionModel" and not any(p.requires_grad for p in tower.parameters())
    for ours, theirs in zip(found.hidden_states, wanted.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_pixels_are_normalised_as_the_towers_own_processor_says(stages):
    mean, std = statistics_of(open_model(stages.encoder))
    made = normalise(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8), mean, std)
    assert made[0, :, 0, 0].tolist() == pytest.approx([(1 - m) / s for m, s in zip(mean, std, strict=True)], abs=1e-6)


def test_a_tower_that_would_be_partly_random_is_refused(tower, tmp_path):
    from safetensors.torch import load_file, save_file

    folder, settings = tower
    weights = load_file(folder / "model.safetensors")
    left_out = next(name for name in weights if "vision_model" in name and "layer_norm1" in name)
    save_file({k: v for k, v in weights.items() if k != left_out}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="the weights lack 1 of CLIPVisionModel"):
        fetch_vision(tmp_path / "out", settings=settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "does not say image_mean and image_std"),
        (lambda folder: edit(folder / "preprocessor_config.json", image_std=[0, 1, 1]), "std above 0"),
        (lambda folder: (folder / "config.json").write_text("{"), "its config.json cannot be read"),
    ],
)
def test_a_tower_without_what_it_needs_is_refused(tower, tmp_path, change, message):
    folder, settings = tower
    change(folder)
    with pytest.raises(UserError, match=message):
        fetch_vision(tmp_path / "out", settings=settings)


def test_a_model_that_is_not_what_was_planned_is_refused(tower, tmp_path, monkeypatch):
    _, settings = tower
    table = {"model_type": "clip_vision_model", "hidden_size": 1024, "num_hidden_layers": 3}
    monkeypatch.setattr("vlmlaw.training.pretrained.config_of", lambda *_: table | {"image_size": 64, "patch_size": 16})
    with pytest.raises(UserError, match="was planned with hidden_size 1024 but has 32"):
        fetch_vision(tmp_path / "out", settings=settings)


def test_a_tower_is_fetched_for_images_of_another_size(practice, stages, tmp_path):
    """From the setting to the cell's own configuration, which needs no word of it later."""
    settings = TowerSettings(source=str(practice / "vision"), dtype="float32", image_size=96)
    fetch_vision(tmp_path / "encoder", settings=settings)
    vlm = build_vlm(stages.language_model, tmp_path / "encoder", settings=CELL)
    vlm.vision_tower.save_pretrained(tmp_path / "again")
    own = load_tower(open_model(stages.encoder))
    pixels = torch.randn(1, 3, 96, 96)
    expected = own(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states[2][:, 1:]
    for tower in (vlm.vision_tower, type(own).from_pretrained(tmp_path / "again")):
        assert torch.equal(patch_features(tower, pixels, layers=[2]), expected)
    assert isinstance(vlm.projector.norm, torch.nn.LayerNorm)
    plain = build_vlm(stages.language_model, tmp_path / "encoder", settings=replace(CELL, projector_norm=False))
    assert isinstance(plain.projector.norm, torch.nn.Identity) and not plain.config.projector_norm
    assert vlm.config.vision_config.image_size == 96 and vlm.compressor.n_patches == 36
    assert "image_size" not in json.loads((stages.encoder / "model.json").read_text())  # as before there was a setting
    fetch_vision(tmp_path / "same", settings=replace(settings, image_size=None))
    assert to_json(replace(settings, image_size=None)) == to_json(
        ModelSettings(source=settings.source, dtype=settings.dtype)
    )
    assert (tmp_path / "same" / "model.json").read_bytes() == (stages.encoder / "model.json").read_bytes()


def test_the_tokenizer_knows_the_image_and_ends_answers_as_chatml_does(stages, practice):
    words = load_tokenizer(stages.tokenizer)
    ids = words("<|im_start|>user\n<image>\nHi", add_special_tokens=False)["input_ids"]
    assert ids.count(words.convert_tokens_to_ids("<image>")) == 1
    assert words.eos_token == "<|im_end|>" and words.pad_token is not None
    parts = [{"type": "image"}, {"type": "text", "text": "Hi"}]
    both = [words.apply_chat_template([{"role": "user", "content": c}], tokenize=False) for c in ("<image>\nHi", parts)]
    assert both[0] == both[1] == "<|im_start|>user\n<image>\nHi<|im_end|>\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [("model", "has no chat template of its own"), ("nowhere.jinja", "the chat template nowhere.jinja cannot be read")],
)
def test_a_chat_template_that_is_not_there_is_named(model, tmp_path, template, message):
    settings = TokenizerSettings(model=model[1], chat_template=template)
    with pytest.raises(UserError, match=message):
        take_tokenizer(tmp_path / "tokenizer", settings=settings)


def test_chatml_needs_its_tokens(model, tmp_path):
    folder, settings = model
    text = (folder / "tokenizer.json").read_text()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((folder / name).read_text().replace("<|im_end|>", "<|the_end|>"))
    assert "<|im_end|>" in text
    with pytest.raises(UserError, match=r"does not know <\|im_end\|>, which the template chatml consists of"):
        take_tokenizer(tmp_path / "out", settings=TokenizerSettings(model=settings, chat_template="chatml"))


def test_settings_of_another_dtype_load_the_tower_in_it(practice, tmp_path):
    settings = replace(ModelSettings(source=str(practice / "vision")), dtype="bfloat16")
    fetch_vision(tmp_path / "out", settings=settings)
    assert load_tower(open_model(tmp_path / "out")).dtype == torch.bfloat16


def test_comparing_vocabularies_reads_each_once_not_once_a_word(model, stages, tmp_path, monkeypatch):
    """With SmolLM2's 49,152 words and a call for each, this had not ended after a CPU-minute."""
    from transformers import PreTrainedTokenizerFast

    _, settings = model
    read, calls = PreTrainedTokenizerFast.get_vocab, []
    monkeypatch.setattr(PreTrainedTokenizerFast, "get_vocab", lambda self: calls.append(self) or read(self))
    fetch_language_model(stages.tokenizer, tmp_path / "pin", settings=settings)
    assert len(calls) in range(2, 20)  # of 400 words
