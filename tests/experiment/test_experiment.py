"""The experiment file: what is refused and how, which cells it makes, and what each stage gets to know."""

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from laptop_models import write_laptop_models
from vlmlaw.cli.main import main
from vlmlaw.data.practice import write_practice
from vlmlaw.errors import UserError
from vlmlaw.experiment.experiment import Experiment, read_experiment
from vlmlaw.experiment.memory import shapes
from vlmlaw.settings import from_json, to_json
from vlmlaw.training.settings import CellSettings

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "params.yaml", *sorted((ROOT / "workflow" / "experiments").glob("*.yaml"))]


@pytest.fixture
def params() -> dict:
    """A small valid experiment, to be spoilt."""
    training = {"steps": 10, "batch_size": 4, "learning_rate": 1.0e-3}
    return {
        "name": "small",
        "data": {
            "source": "miniature",
            "seed": 0,
            "n_relations": 2,
            "questions_per_image": 4,
            "images": {"train": 8, "development": 4, "test": 6},
            "text": {"records": 8, "reading_share": 0.5},
        },
        "vision": {
            "source": "train",
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "feature_layers": [2],
            "multi_level_layers": [1, 2],
            "training": training,
        },
        "pretraining": training,
        "training": training | {"new_learning_rate": 3.0e-3},
        "sizes": {
            "s": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
            "m": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "training": {"steps": 20}},
        },
        "grid": {"visual_tokens": [1, 4], "compressors": ["average"], "held_out": "m"},
    }


def put(params: dict, path: str, value: object) -> dict:
    """A copy with `a.b.c` set to a value."""
    params = copy.deepcopy(params)
    *parents, last = path.split(".")
    section = params
    for key in parents:
        section = section.setdefault(key, {})
    section[last] = value
    return params


@pytest.fixture(scope="module")
def folder_of_practice(tmp_path_factory):
    """A folder that holds what practice.yaml and laptop.yaml name: their models are asked for their shapes."""
    folder = tmp_path_factory.mktemp("project")
    write_practice(folder / "practice")
    write_laptop_models(folder)
    return folder


def test_benchmarks_may_stand_in_for_a_test_split(folder_of_practice, monkeypatch):
    monkeypatch.chdir(folder_of_practice)
    file = yaml.safe_load((ROOT / "workflow" / "experiments" / "practice.yaml").read_text())
    without = file | {"data": {key: value for key, value in file["data"].items() if key != "test"}}
    with pytest.raises(UserError, match=r"nothing would be measured; name a suite .* in data\.test, or benchmarks"):
        Experiment.from_mapping(without)
    benchmarks = {"benchmarks": [{"name": "gqa", "by": "lmms-eval"}]}
    asked = Experiment.from_mapping(without | {"evaluation": benchmarks})
    assert asked.splits == ("align", "train") and asked.evaluations == ["benchmarks/gqa.json"]
    both = Experiment.from_mapping(file | {"evaluation": benchmarks})
    assert both.splits == ("align", "train", "test") and both.evaluations == ["evaluation.json", "benchmarks/gqa.json"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_experiment_file_of_the_repository_is_valid(path, folder_of_practice, monkeypatch):
    monkeypatch.chdir(folder_of_practice)
    experiment = read_experiment(path)
    assert experiment.cells
    assert len({read_experiment(other).results for other in FILES}) == len(FILES)


def test_a_tower_that_cannot_be_trained_is_refused_with_the_reason(params, folder_of_practice, monkeypatch):
    monkeypatch.chdir(folder_of_practice)
    practice = yaml.safe_load((ROOT / "workflow" / "experiments" / "practice.yaml").read_text())
    trained = put(practice, "training.vision_learning_rate", 5.0e-4)
    experiment = Experiment.from_mapping(trained)
    cell = experiment.trainings["10k_v4_tokenpacker_s0"]
    assert cell.trains_tower and not experiment.stage_1_of(cell).trains_tower
    patches = put(params, "vision", {"source": "patches"})
    for file, reason in (
        (put(trained, "vision.cache_features", True), "vision.cache_features has the tower run once for all cells"),
        (put(params, "sizes.m.training.vision_learning_rate", 1.0e-4), "size m, and the miniature's tower runs once"),
        (put(patches, "training.vision_learning_rate", 1.0e-4), "vision.source patches has no tower"),
        (put(trained, "grid.compressors", ["downsample"]), "downsample, which makes images smaller before the tower"),
        (put(trained, "training.vision_learning_rate", 0), "found 0; expected a number above 0"),
    ):
        with pytest.raises(UserError, match=re.escape(reason)):
            Experiment.from_mapping(file)
    assert Experiment.from_mapping(put(trained, "grid.compressors", ["downsample_at_inference"])).cells


def test_cells_are_the_product_and_more(params):
    more = [{"sizes": ["s"], "visual_tokens": [9], "compressors": ["quecc"], "seeds": [0, 1]}]
    cells = Experiment.from_mapping(put(params, "grid.more", more)).cells
    assert list(cells) == [
        "s_v1_average_s0",
        "s_v4_average_s0",
        "m_v1_average_s0",
        "m_v4_average_s0",
        "s_v9_quecc_s0",
        "s_v9_quecc_s1",
    ]
    assert cells["s_v1_average_s0"].feature_layers == (2,)
    assert cells["s_v9_quecc_s0"].feature_layers == (1, 2)
    assert [cells[name].training.steps for name in ("s_v1_average_s0", "m_v1_average_s0")] == [10, 20]


def test_cells_share_trainings(params):
    """An elastic compressor trains once for all V; one applied at inference has the training of all patches."""
    compressors = ["average", "m3", "tome", "random_at_inference"]
    experiment = Experiment.from_mapping(put(params, "grid.compressors", compressors))
    used = {name: experiment.training_of(cell).name for name, cell in experiment.cells.items()}
    assert used["s_v4_average_s0"] == "s_v4_average_s0"
    assert used["s_v1_m3_s0"] == used["s_v4_m3_s0"] == "s_m3_s0"
    whole = "m_v144_none_s0"
    assert used["m_v1_tome_s0"] == used["m_v4_tome_s0"] == used["m_v1_random_at_inference_s0"] == whole
    assert len(experiment.cells) == 16 and set(experiment.trainings) == set(used.values())
    assert len(experiment.trainings) == 8
    settings = experiment.trainings[whole]
    assert (settings.compressor, settings.n_visual_tokens, settings.training.steps) == ("none", 144, 20)
    assert experiment.trainings["s_m3_s0"].n_visual_tokens is None


def test_each_seed_may_have_a_pretraining_of_its_own(params):
    shared = Experiment.from_mapping(params)
    assert shared.size_settings("s", seed=3) == shared.size_settings("s")
    own = Experiment.from_mapping(put(params, "grid.pretrain_each_seed", True))
    assert own.size_settings("s") == shared.size_settings("s")  # that of seed 0
    assert own.size_settings("s", seed=3) == replace(shared.size_settings("s"), seed=params["data"]["seed"] + 3)


def test_loaded_models_have_no_pretraining_for_a_seed(folder_of_practice, monkeypatch):
    monkeypatch.chdir(folder_of_practice)
    practice = yaml.safe_load((ROOT / "workflow" / "experiments" / "practice.yaml").read_text())
    with pytest.raises(UserError, match=r"grid\.pretrain_each_seed: loaded language models are not pretrained here"):
        Experiment.from_mapping(put(practice, "grid.pretrain_each_seed", True))


def test_a_cell_can_be_left_out(params):
    cells = Experiment.from_mapping(put(params, "grid.without", ["s_v4_average_s0"])).cells
    assert list(cells) == ["s_v1_average_s0", "m_v1_average_s0", "m_v4_average_s0"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("trainning", {}, "unknown key 'trainning'; the keys there are name, data"),
        ("grid.sizes", [], "grid.sizes: there is none; name one, or say all"),
        ("data.images.tset", 5, "found train, development, test, tset; expected train, development, test"),
        ("data.seed", "0", "data.seed: found '0'; expected a whole number"),
        ("data.seed", True, "data.seed: found True; expected a whole number"),
        ("data.seed", -1, "found -1; expected a whole number at least 0"),
        ("data.source", "coco", "found 'coco'; expected one of miniature"),
        ("data.images.test", 0, "found 0; expected a whole number at least 1"),
        ("data.text", None, "text is missing"),
        ("data", [], "expected a section with source, seed"),
        (
            "training",
            {"batch_size": 4, "learning_rate": 1.0, "new_learning_rate": 1.0},
            "found steps 0 and epochs 0; give one of the two",
        ),
        ("training.learning_rate", "1e-3", "YAML reads this as text; write 1.0e-3"),
        ("training.learning_rate", 0, "found 0; expected a number above 0"),
        ("training.learning_rate", float("nan"), "found nan"),
        ("training.warmup_share", 2, "at least 0 and at most 1"),
        ("vision.feature_layers", [3], "the tower's hidden states are 0 to 2"),
        ("vision.feature_layers", [], "Name at least one"),
        ("vision.feature_layers", 2, "found 2; expected a list"),
        ("sizes", {}, "there is none"),
        ("sizes.s.num_attention_heads", 3, "3 heads do not divide hidden_size 16; 1, 2, 4, 8, 16 would"),
        ("sizes.s.training", {"rate": 1}, "training of size s: unknown key 'rate'"),
        ("sizes.s.depth", 2, "sizes.s: unknown key 'depth'"),
        ("sizes.a_b", {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}, "cannot name a folder"),
        ("grid.held_out", "xl", "no size is called 'xl'; there are s, m"),
        ("grid.sizes", ["xl"], "unknown 'xl'; there are s, m (or all)"),
        ("grid.visual_tokens", [5], "cannot make V = 5 visual tokens of a 12 x 12 grid of patches; V can be 1, 4, 9"),
        ("grid.visual_tokens", [1, 1], "the cell s_v1_average_s0 is there twice"),
        ("grid.visual_tokens", [], "the grid has no cell"),
        ("grid.without", ["s_v9_average_s0"], "there is no cell 's_v9_average_s0' to leave out"),
        ("grid.seeds", [], "the grid has no cell"),
        (
            "grid.more",
            [{"visual_tokens": [4], "compressors": ["average"]}],
            "grid.more[0]: the cell s_v4_average_s0 is",
        ),
        ("grid.compressors", ["averag"], "no compressor is called 'averag'; there are a"),
        ("grid.compressors", [], "there is none"),
        ("grid.compressors", {"average": {"width": 3}}, "unknown option(s) width; its options: none"),
        ("grid.compressors", {"resampler": {"n_heads": "two"}}, "compressor resampler refuses {'n_heads': 'two'}"),
        ("grid.compressors", {"average": 3}, "expected names, or names with their options"),
        ("grid.compressors", ["fastv"], "layer is 2 and the LLM has 1 layers"),
        ("grid.compressors", {"m3": {"training_tokens": [5]}}, "cannot make V = 5"),
        ("results", "/tmp/x", "expected a folder inside"),
        ("results", "../x", "expected a folder inside"),
    ],
)
def test_what_cannot_run_is_refused_by_name(params, path, value, message):
    with pytest.raises(UserError, match=re.escape(message)):
        Experiment.from_mapping(put(params, path, value))


def test_a_compressor_has_one_set_of_options(params):
    grid = params["grid"] | {
        "compressors": {"resampler": {"n_heads": 2}},
        "more": [{"visual_tokens": [9], "compressors": ["resampler"]}],
    }
    with pytest.raises(UserError, match="give a compressor one set of options"):
        Experiment.from_mapping(params | {"grid": grid})


def test_settings_survive_json_whatever_the_order_of_the_file(params):
    backwards = yaml.safe_load(yaml.safe_dump(params, sort_keys=True))
    for name, cell in Experiment.from_mapping(params).cells.items():
        text = to_json(cell)
        assert text == to_json(Experiment.from_mapping(backwards).cell_settings(name))
        assert from_json(CellSettings, text) == cell
        assert list(json.loads(text)) == sorted(json.loads(text))


def test_how_often_to_save_is_no_part_of_a_cell(params):
    rarely = Experiment.from_mapping(put(params, "training.checkpoint_seconds", 600))
    assert rarely.cell_settings("s_v1_average_s0").training.checkpoint_seconds == 600
    assert to_json(rarely.cell_settings("s_v1_average_s0")) == to_json(
        Experiment.from_mapping(params).cell_settings("s_v1_average_s0")
    )


def test_a_split_knows_its_own_images_only(params):
    few, many = (Experiment.from_mapping(put(params, "data.images.test", n)) for n in (6, 60))
    assert to_json(few.picture_settings("train")) == to_json(many.picture_settings("train"))
    assert to_json(few.picture_settings("test")) != to_json(many.picture_settings("test"))
    assert to_json(few.text_settings) == to_json(many.text_settings)


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"size": "s"}'])
def test_settings_that_are_no_settings_are_refused(text):
    with pytest.raises(UserError, match="--settings"):
        from_json(CellSettings, text)


def test_an_unknown_cell_names_those_there_are(params):
    with pytest.raises(UserError, match=re.escape("has 4 cells, for example s_v1_average_s0, s_v4_average_s0")):
        Experiment.from_mapping(params).cell_settings("s_v2_average_s0")


def test_a_file_that_is_no_yaml_is_refused(tmp_path):
    (tmp_path / "bad.yaml").write_text("grid: {a: ?, b")
    for path in (tmp_path / "bad.yaml", tmp_path / "none.yaml"):
        with pytest.raises(UserError, match="cannot read"):
            read_experiment(path)


def test_the_command_lists_cells_or_says_what_is_wrong(params, tmp_path, capsys):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(params))
    assert main(["experiment", "check", str(path)]) == 0
    assert "m_v4_average_s0  (held out of the fit)" in capsys.readouterr().out
    path.write_text(yaml.safe_dump(put(params, "sizes.s.depth", 2)))
    assert main(["experiment", "check", str(path)]) == 2
    assert "unknown key 'depth'" in capsys.readouterr().err


def test_a_split_may_have_several_files(folder_of_practice, monkeypatch):
    monkeypatch.chdir(folder_of_practice)
    file = yaml.safe_load((ROOT / "workflow/experiments/practice.yaml").read_text())
    one = file["data"]["train"]
    parts = [one | {"records": 60, "text_tokens": 100}, one | {"records": 20, "text_tokens": 200}]
    several = Experiment.from_mapping(put(file, "data.train", parts))
    assert list(several.picture_settings("train").files) == ["", "2"]
    assert [several.data.whole("train").records, several.data.whole("train").text_tokens] == [80, 125]
    single = Experiment.from_mapping(file)
    listed = Experiment.from_mapping(put(file, "data.train", [one]))  # the same data, so the same settings
    assert to_json(listed.picture_settings("train")) == to_json(single.picture_settings("train"))
    spoilt = put(file, "data.train", [one, {"images": "x", "conversation": "y"}])
    with pytest.raises(UserError, match=r"data\.train\[1\]: unknown key 'conversation'"):
        Experiment.from_mapping(spoilt)
    with pytest.raises(UserError, match=r"data: train: the list has no file"):
        Experiment.from_mapping(put(file, "data.train", []))


def test_grid_pictures_and_tower_follow_the_image_size(folder_of_practice, monkeypatch):
    monkeypatch.chdir(folder_of_practice)
    file = yaml.safe_load((ROOT / "workflow/experiments/practice.yaml").read_text())
    larger = Experiment.from_mapping(put(file, "vision.image_size", 128))
    assert (larger.grid_side, larger.picture_settings("train").image_px) == (8, 128)
    assert '"image_size":128' in to_json(larger.encoder_settings)
    assert shapes(larger, "10k")[1].image_size == 128
    assert "image_size" not in to_json(Experiment.from_mapping(file).encoder_settings)
    with pytest.raises(
        UserError, match=r"vision.image_size 100 is no multiple of the tower's patch of 16; take 96 or 112"
    ):
        Experiment.from_mapping(put(file, "vision.image_size", 100))


def test_constants_of_a_llava_user_reach_the_stages_and_their_defaults_are_left_out(folder_of_practice, monkeypatch):
    monkeypatch.chdir(folder_of_practice)
    file = yaml.safe_load((ROOT / "workflow/experiments/practice.yaml").read_text())
    own = Experiment.from_mapping(file)
    name = "10k_v4_tokenpacker_s0"
    before = [to_json(part) for part in (own.cells[name], own.alignments[name], own.picture_settings("align"))]
    new = ("beta2", "final_rate_share", "projector_norm", "max_tokens")
    assert not any(f'"{key}"' in text for key in new for text in before)
    assert json.loads(before[2])["files"][""].keys().isdisjoint({"fit"})
    for section in ("alignment", "training"):
        file = put(put(file, f"{section}.beta2", 0.999), f"{section}.final_rate_share", 0.0)
    file = put(put(file, "vision.projector_norm", False), "data.max_tokens", 2048)
    file = put(file, "data.align.fit", "crop")
    set_ = Experiment.from_mapping(file)
    for cell in (set_.cells[name], set_.alignments[name]):
        again = from_json(CellSettings, to_json(cell))
        assert again == cell and not again.projector_norm and again.max_tokens == 2048
        assert (again.training.beta2, again.training.final_rate_share) == (0.999, 0.0)
    assert set_.picture_settings("align").files[""].fit == "crop"
    assert set_.picture_settings("train").files[""].fit is None
