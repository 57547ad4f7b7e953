"""Settings from mappings: what is refused, how it is said, and what jobs compare."""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from laptop_models import write_laptop_models
from vlmlaw.data.practice import write_practice
from vlmlaw.data.settings import DataSettings
from vlmlaw.errors import UserError
from vlmlaw.experiment.experiment import Experiment, read_experiment
from vlmlaw.experiment.sections import LoadedVision, SizeSection, VisionSection
from vlmlaw.settings import as_data, build, choice, choices, from_json, number, passive, passive_names, to_json
from vlmlaw.training.settings import SizeSettings

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "params.yaml", *sorted((ROOT / "workflow" / "experiments").glob("*.yaml"))]


@dataclass(frozen=True, kw_only=True)
class Inner:
    share: float = number(least=0, most=1)

    def __post_init__(self) -> None:
        if self.share == 0.5:
            raise UserError("a share of 0.5 is neither")


@dataclass(frozen=True, kw_only=True)
class Outer:
    seed: int = number(least=0)
    rate: float = number(above=0, default=1.0)
    kind: str = choice("packed", "padded", default="packed")
    logs: tuple[str, ...] = choices("wandb", "dvclive", default=())
    title: str = "none"
    dry: bool = False
    inner: Inner | None = None
    parts: tuple[Inner, ...] = ()
    images: Mapping[str, int] = number(least=1, default=None)
    pause: int | None = passive(number(least=1, default=None))
    free: Any = None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", 2**63, f"found {2**63}; expected a whole number at least 0 (64 bits hold {2**63 - 1} at most)."),
        ("seed", 1.0, "found 1.0; expected a whole number at least 0. Write 1."),
        ("seed", "7", "found '7'; expected a whole number at least 0. This is text; write 7 without quotes."),
        ("seed", True, "found True; expected a whole number"),
        ("seed", None, "found nothing; expected a whole number"),
        ("rate", "3e-3", "found '3e-3'; expected a number above 0. YAML reads this as text; write 3.0e-3."),
        ("rate", float("inf"), "found inf; expected a number above 0. It must be finite."),
        ("rate", "nan", "found 'nan'; expected a number above 0. It must be a finite number."),
        ("rate", "-inf", "found '-inf'; expected a number above 0. It must be a finite number."),
        ("seed", "inf", "found 'inf'; expected a whole number at least 0. It must be a finite number."),
        ("rate", 10**400, "expected a number above 0"),
        ("rate", False, "found False; expected a number above 0"),
        ("kind", "paded", "found 'paded'; expected one of packed, padded. Did you mean padded?"),
        ("kind", 1, "found 1; expected one of packed, padded."),
        ("logs", ["wandb", "tb"], "x.logs[1]: found 'tb'; expected one of wandb, dvclive."),
        ("logs", "wandb", "x.logs: found 'wandb'; expected a list."),
        ("logs", {"wandb"}, "x.logs: found {'wandb'}; expected a list."),
        ("title", 5, "found 5; expected text. YAML reads this as something else than text; put it in quotes."),
        ("dry", "yes", "found 'yes'; expected true or false."),
        ("inner", 3, "x.inner: found 3; expected a section with share."),
        ("inner", {"share": 0.5}, "x.inner: a share of 0.5 is neither"),
        ("inner", {}, "x.inner.share is missing; expected a number at least 0 and at most 1: add it."),
        (
            "parts",
            [{"share": 0}, {"share": 2}],
            "x.parts[1].share: found 2; expected a number at least 0 and at most 1.",
        ),
        ("images", {"test": 0}, "x.images.test: found 0; expected a whole number at least 1."),
        ("images", {False: 1}, "x.images: found False; expected text as a name"),
        ("images", [1], "x.images: found [1]; expected names with their values."),
        ("sede", 1, "x: unknown key 'sede'; the keys there are seed, rate, kind"),
        ("sede", 1, "free. Did you mean seed?"),
    ],
)
def test_a_fault_says_where_what_was_found_and_expected_and_what_to_do(key, value, message):
    with pytest.raises(UserError, match=re.escape(message)):
        build(Outer, {"seed": 1} | {key: value}, where="x")


def test_all_faults_are_listed_at_once():
    wrong = {"rate": 0, "kinds": "packed", "inner": {"share": "a", "shares": 1}, "parts": [{}, 1]}
    with pytest.raises(UserError) as refused:
        build(Outer, wrong, where="x")
    first, *faults = str(refused.value).splitlines()
    assert first == "7 settings are wrong:"
    assert [re.match(r"  - (x[a-z.0-9\[\]]*)", fault)[1] for fault in faults] == [
        *("x.seed", "x.rate", "x.inner.share", "x.inner", "x.parts[0].share", "x.parts[1]", "x"),
    ]


def test_values_are_as_annotated():
    given = {"seed": 2**63 - 1, "rate": 2, "inner": {"share": 1}, "parts": [{"share": 0.25}], "images": {7: 1}}
    made = build(Outer, given, where="x")
    assert made == Outer(seed=2**63 - 1, rate=2.0, inner=Inner(share=1.0), parts=(Inner(share=0.25),), images={"7": 1})
    assert type(made.rate) is type(made.inner.share) is float and type(made.parts) is tuple
    assert build(Outer, {"seed": 0, "inner": made.inner}, where="x").inner is made.inner


def test_the_largest_seed_is_one_that_arrays_and_generators_take():
    largest = build(Outer, {"seed": 2**63 - 1}, where="x").seed
    torch.Generator().manual_seed(largest)
    np.random.default_rng([largest, 0])
    assert np.array([largest]).dtype == np.int64
    with pytest.raises(OverflowError):
        np.array([largest + 1], dtype=np.int64)


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        ({"source": "train", "hidden_size": 8, "num_hidden_layers": 1}, VisionSection),
        ({"source": "openai/clip"}, LoadedVision),
    ],
)
def test_a_section_of_several_kinds_goes_by_its_source(section, kind):
    @dataclass(frozen=True, kw_only=True)
    class File:
        vision: VisionSection | LoadedVision

    training = {"steps": 1, "batch_size": 1, "learning_rate": 1.0} if kind is VisionSection else None
    whole = section | {"feature_layers": [1], "multi_level_layers": [1]} | ({"training": training} if training else {})
    assert type(build(File, {"vision": whole}, where="x").vision) is kind
    for wrong in (None, 3, [], {"source": 3}):
        with pytest.raises(UserError, match=r"x\.vision"):
            build(File, {"vision": wrong}, where="x")


LATER = [("beta2", 0.98), ("final_rate_share", 0.02), ("projector_norm", True), ("image_size", None)]
LATER += [("max_tokens", None), ("validation", None)]  # settings that came later, with what was so before
LATER += [("lora", None), ("explained", 0), ("vision_learning_rate", None)]


def without_passive(settings: Any) -> Any:
    """What dataclasses.asdict says, without passive fields and later ones at their default: the reference."""
    if not dataclasses.is_dataclass(settings):
        return list(settings) if isinstance(settings, tuple) else settings
    shallow = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    kept = {name: value for name, value in shallow.items() if name not in passive_names(type(settings))}
    kept = {name: value for name, value in kept.items() if (name, value) not in LATER}
    if all(not dataclasses.is_dataclass(value) for value in kept.values()):
        return {name: value for name, value in dataclasses.asdict(settings).items() if name in kept}
    return {name: without_passive(value) for name, value in kept.items()}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_jobs_compare_is_the_settings_and_nothing_else(path, tmp_path, monkeypatch):
    """A new JSON would retrain every finished grid; the reference is Python's own."""
    write_practice(tmp_path / "practice")
    write_laptop_models(tmp_path)
    monkeypatch.chdir(tmp_path)
    experiment = read_experiment(path)
    stages = [
        *experiment.cells.values(),
        *experiment.trainings.values(),
        *map(experiment.size_settings, experiment.sizes),
    ]
    stages += [experiment.encoder_settings, experiment.report, *map(experiment.token_settings, experiment.splits)]
    for settings in stages:
        expected = json.loads(json.dumps(without_passive(settings)))
        if isinstance(settings, SizeSettings):
            assert {"hidden_size", "num_hidden_layers", "num_attention_heads", "pretraining", "seed"} == set(expected)
        text = to_json(settings)
        assert json.loads(text) == expected
        assert text == json.dumps(expected, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert to_json(from_json(type(settings), text)) == text
    assert from_json(Experiment, json.dumps(as_data(experiment))) == experiment


def test_an_option_that_is_none_is_left_out_where_the_class_says_so():
    @dataclass(frozen=True, kw_only=True)
    class Larger(SizeSection):
        num_key_value_heads: int | None = number(least=1, default=None)

    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    assert to_json(build(Larger, shape, where="x")) == to_json(build(SizeSection, shape, where="x"))
    assert json.loads(to_json(build(Larger, shape | {"num_key_value_heads": 1}, where="x")))["num_key_value_heads"] == 1
    images = {"seed": 0, "n_relations": 1, "questions_per_image": 1, "images": {}, "source": "miniature"}
    assert json.loads(to_json(build(DataSettings, images, where="x")))["text"] is None
