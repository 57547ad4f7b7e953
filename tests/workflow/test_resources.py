"""What jobs ask a cluster for."""

import math
from dataclasses import replace

import pytest
import yaml
from snakemake.iocontainers import Wildcards

from vlmlaw.experiment.budget import estimate
from vlmlaw.experiment.experiment import Experiment, read_experiment
from vlmlaw.workflow import attempts
from vlmlaw.workflow.plan import Plan
from vlmlaw.workflow.resources import Needs
from vlmlaw.workflow.stage import wildcards_of

FILE = "workflow/experiments/tiny.yaml"


@pytest.fixture
def file(request):
    return yaml.safe_load((request.config.rootpath / FILE).read_text())


def needs(file, **compute):
    sizes = {
        "0.5b": {"hidden_size": 1024, "num_hidden_layers": 40, "num_attention_heads": 16},
        "14b": {"hidden_size": 5120, "num_hidden_layers": 44, "num_attention_heads": 40},
    }
    changed = {"sizes": file["sizes"] | sizes, "grid": file["grid"] | {"sizes": list(sizes)}, "compute": compute}
    return Needs(Experiment.from_mapping(file | changed))


def cell(size, n_visual_tokens):
    named = {"size": size, "n_visual_tokens": str(n_visual_tokens), "compressor": "block_linear", "seed": "0"}
    return Wildcards(fromdict=named)


def test_a_larger_model_asks_for_more(file):
    asked = needs(file, gpus=1, gpu_memory_gb=80, peak_tflops=0.1)  # the tiny grid has few records
    small, large = cell("0.5b", 1), cell("14b", 1)
    for request in (asked.memory_mb("train_cell"), asked.minutes("train_cell"), asked.gpus("train_cell")):
        assert request(large) > request(small)
    assert asked.gpus("train_cell")(small) == 1
    assert asked.gpus("train_cell")(large) == 4, "14 B x 16 bytes is 222 GB of weights and their training state"
    assert asked.gpus("evaluate_cell")(large) == 1


def test_every_process_loads_the_model(file):
    at, n_params = cell("14b", 1), 12 * 44 * 5120**2
    one, eight = (needs(file, gpus=gpus, gpu_memory_gb=300, max_memory_mb=10**7) for gpus in (1, 8))
    assert one.memory_mb("train_cell")(at) == pytest.approx(8 * n_params / 1e6, rel=0.05)
    assert eight.memory_mb("train_cell")(at) == pytest.approx(36 * n_params / 1e6, rel=0.05)
    assert eight.memory_mb("evaluate_cell")(at) == one.memory_mb("evaluate_cell")(at)


def test_tokenizing_asks_for_the_memory_of_its_records(file, request):
    assert Needs(Experiment.from_mapping(file)).tokenizing_memory_mb(Wildcards(fromdict={"split": "train"})) == 2000
    paper = yaml.safe_load((request.config.rootpath / "workflow" / "experiments" / "paper.yaml").read_text())
    asked = Needs(Experiment.from_mapping(paper))
    assert asked.tokenizing_memory_mb(Wildcards(fromdict={"split": "train"})) == 2000 + 15_000 * 665_298 // 10**6


def test_more_visual_tokens_ask_for_more_time(file):
    asked = needs(file, gpus=0, max_minutes=10**6)
    assert asked.minutes("train_cell")(cell("0.5b", 36)) > 1.3 * asked.minutes("train_cell")(cell("0.5b", 1))
    assert asked.memory_mb("train_cell")(cell("0.5b", 36)) == asked.memory_mb("train_cell")(cell("0.5b", 1))


def test_time_follows_the_cost_of_a_training(file):
    asked = needs(file, gpus=1, peak_tflops=100.0, utilisation=0.5, max_minutes=10**6)
    training = asked.experiment.cell_settings("0.5b_v36_block_linear_s0")
    n_params, n_tokens, n_records = 12 * 40 * 1024**2, 36 + 8 * 8, 100 * 8
    assert asked.experiment.n_params_estimate("0.5b") == n_params
    tested = 64 * 2 * n_params * n_tokens
    assert asked.cell_seconds(training) == pytest.approx((n_records * 6 * n_params * n_tokens + tested) / 50e12)


@pytest.mark.parametrize("name", ["paper", "modern"])
def test_a_training_takes_as_long_as_the_estimate_of_gpu_hours_says(request, name):
    """Both are one model: its hours over the job's GPUs, threefold, with ten minutes and within the limit."""
    experiment = read_experiment(request.config.rootpath / "workflow" / "experiments" / f"{name}.yaml")
    asked = Needs(replace(experiment, compute=replace(experiment.compute, max_minutes=10**6)))
    for hours in estimate(experiment):
        settings = experiment.trainings[hours.cell]
        at = Wildcards(fromdict=wildcards_of(settings))
        minutes = 3 * 60 * hours.stage_2 / asked.gpus("train_cell")(at)
        assert asked.minutes("train_cell")(at) == math.ceil(10 + minutes), hours.cell


def test_benchmarks_and_features_ask_by_what_they_compute(request):
    experiment = read_experiment(request.config.rootpath / "workflow" / "experiments" / "paper.yaml")
    asked = Needs(replace(experiment, compute=replace(experiment.compute, peak_tflops=1.0, max_minutes=10**6)))
    small, large = (
        Wildcards(fromdict=dict(size=size, n_visual_tokens="1", compressor="tokenpacker", seed="0", benchmark="gqa"))
        for size in ("0.5b", "14b")
    )
    for rule in ("evaluate_benchmark", "evaluate_by_lmms_eval"):
        assert asked.gpus(rule)(small) == asked.gpus(rule)(large) == 1, "one process reads; training has eight GPUs"
        assert asked.memory_mb(rule, least=3000)(small) < 10_000 < asked.memory_mb(rule, least=3000)(large)
        assert asked.minutes(rule, least=1000)(small) == 1000 < asked.minutes(rule, least=1000)(large)
    aligned, tested = (
        asked.minutes("cache_features")(Wildcards(fromdict={"split": split})) for split in ("align", "test")
    )
    assert aligned > 10 * tested


def test_a_rule_that_records_no_attempts_gets_twice_as_much_with_each():
    assert [Needs.doubling(30, most=100)(None, attempt) for attempt in (1, 2, 3)] == [30, 60, 100]


def test_such_a_rule_asks_for_no_more_than_the_limits(file):
    plan = Plan(file | {"compute": file.get("compute", {}) | {"max_memory_mb": 1500, "max_minutes": 15}})
    asked = plan.resources("write_cards")
    assert [asked["mem_mb"](None, attempt) for attempt in (1, 2)] == [1000, 1500]
    assert [asked["runtime"](None, attempt) for attempt in (1, 2)] == [10, 15]


def test_small_things_stay_small(file):
    asked = Needs(Experiment.from_mapping(file))
    for name, settings in asked.experiment.cells.items():
        wildcards = Wildcards(fromdict=wildcards_of(settings))
        assert asked.gpus("train_cell")(wildcards) == 0, name
        assert asked.memory_mb("train_cell")(wildcards) < 2000, name
        assert asked.minutes("train_cell")(wildcards) < 15, name


def test_limits_hold(file):
    asked = needs(file, gpus=0, max_minutes=600, max_memory_mb=64_000)
    assert asked.minutes("train_cell")(cell("14b", 36)) == 600
    assert asked.memory_mb("train_cell")(cell("14b", 36)) == 64_000


@pytest.mark.parametrize(
    ("causes", "memory", "minutes"),
    [
        ([], 1, 1),
        ([attempts.MEMORY], 2, 1),
        ([attempts.KILLED], 2, 1),
        ([attempts.TIME], 1, 2),
        ([attempts.MEMORY, attempts.TIME, attempts.MEMORY], 4, 2),
        ([attempts.STOPPED, attempts.ERROR, attempts.BAD_INPUT], 1, 1),
    ],
)
def test_a_retry_asks_for_more_of_what_was_wanting(file, monkeypatch, causes, memory, minutes):
    asked, at = needs(file, gpus=0, max_minutes=10**9, max_memory_mb=10**9), cell("0.5b", 4)
    before = asked.memory_mb("train_cell")(at), asked.minutes("train_cell")(at)
    monkeypatch.setattr("vlmlaw.workflow.resources.failures", lambda log: causes if "0.5b_v4_block" in log.name else [])
    after = asked.memory_mb("train_cell")(at), asked.minutes("train_cell")(at)
    assert after == (before[0] * memory, before[1] * minutes)


def test_an_attempt_that_ended_before_it_could_say_so_counts_as_short_of_both(file, monkeypatch):
    asked, at = needs(file, gpus=0, max_minutes=10**9, max_memory_mb=10**9), cell("0.5b", 4)
    memory, minutes = asked.memory_mb("train_cell"), asked.minutes("train_cell")
    assert (memory(at, attempt=3), minutes(at, attempt=3)) == (4 * memory(at), 4 * minutes(at))
    before = memory(at), minutes(at)
    monkeypatch.setattr("vlmlaw.workflow.resources.failures", lambda log: [attempts.STOPPED, attempts.TIME])
    assert (memory(at, attempt=3), minutes(at, attempt=3)) == (before[0], 2 * before[1])
