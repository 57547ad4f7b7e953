"""Milliseconds to the first token: what is counted to which part, and that the model is left as it was."""

import time
from pathlib import Path

import pytest
import torch

from vlmlaw.compressors import COMPRESSORS
from vlmlaw.errors import UserError
from vlmlaw.evaluation import latency
from vlmlaw.evaluation.latency import latency_table, measure
from vlmlaw.experiment.experiment import read_experiment

SLEEP = 0.02


def slowed(method):
    def slow(*args, **options):
        time.sleep(SLEEP)
        return method(*args, **options)

    return slow


@pytest.mark.parametrize(
    ("slow", "part"),
    [
        ("encode_images", "tower"),
        ("read_question", "question_pass"),
        ("compressor", "compressor"),
        ("projector", "compressor"),
        ("language_model", "llm"),
    ],
)
def test_time_is_counted_to_the_part_that_takes_it(make_vlm, monkeypatch, slow, part):
    vlm = make_vlm(compressor="quecc", n_visual_tokens=4)
    if slow in ("encode_images", "read_question"):
        where, name = type(vlm), slow
    elif slow == "language_model":
        where, name = type(vlm.language_model.base_model), "forward"
    else:
        where, name = type(getattr(vlm, slow)), "compress" if slow == "compressor" else "forward"
    monkeypatch.setattr(where, name, slowed(getattr(where, name)))
    found = measure(vlm, n_text_tokens=6, n_repeats=2)
    assert getattr(found, part) >= 1e3 * SLEEP
    assert found.all == pytest.approx(sum(vars(found).values()))
    if slow == "language_model":  # it also reads the question for the compressor
        assert found.question_pass >= 1e3 * SLEEP


@pytest.mark.parametrize("name", sorted(COMPRESSORS))
def test_every_compressor_can_be_timed(make_vlm, name):
    n_tokens = COMPRESSORS[name].allowed_tokens(4)[0]
    options = {"layer": 1} if "layer" in COMPRESSORS[name].option_names() else {}  # of the LLM's two
    vlm = make_vlm(compressor=name, n_visual_tokens=n_tokens, compressor_options=options)
    if name == "fastv":
        vlm.set_attn_implementation("eager")
    found = measure(vlm, n_text_tokens=6, n_repeats=1)
    assert found.tower > 0 and found.llm > 0 and found.compressor > 0
    assert (found.question_pass > 0) == COMPRESSORS[name].needs_question
    assert not {"encode_images", "forward"} & set(vars(vlm))
    assert not torch.is_inference_mode_enabled()


def test_a_cell_without_a_model_is_named():
    experiment = read_experiment(Path(__file__).parents[2] / "params.yaml")
    name = "84k_v4_average_elastic_s0"
    cells = {name: (experiment.model_of(name), experiment.cell_settings(name).measured)}
    with pytest.raises(
        UserError, match=r"84k_v4_average_elastic_s0 has no model in .*; train it: snakemake --cores all"
    ):
        list(latency_table(cells, n_text_tokens=4, n_repeats=1, dtype="float32"))


class FakeQueue:
    """A GPU that works its queue off behind the host: `work` is put there at once, and done when one waits."""

    def __init__(self):
        self.queue, self.now, self.is_done = [], 0.0, True

    def work(self, milliseconds):
        self.queue.append(milliseconds)
        self.is_done = False

    def synchronize(self):
        for item in self.queue:
            if isinstance(item, float):
                self.now += item
            else:
                item.at = self.now
        self.queue, self.is_done = [], True

    def Event(self, *, enable_timing):
        assert enable_timing
        gpu = self

        class Event:
            def record(self):
                gpu.queue.append(self)

            def elapsed_time(self, end):
                assert gpu.is_done, "read before the GPU has come to it"
                return end.at - self.at

        return Event()


def test_a_gpu_is_timed_by_events_in_its_queue(monkeypatch):
    gpu = FakeQueue()
    monkeypatch.setattr(latency.torch, "cuda", gpu)

    class Model:
        device = torch.device("cuda")

        def tower(self):
            gpu.work(5.0)

        def forward(self):
            self.tower()
            gpu.work(40.0)
            self.tower()

    model = Model()
    gpu.work(1000.0)  # what was queued before is nobody's
    with latency._timed(model, "tower", "forward") as spent:
        model.forward()
    assert spent == {"tower": pytest.approx(0.010), "forward": pytest.approx(0.050)}
    assert "forward" not in vars(model)
    assert isinstance(latency.clock_of(torch.device("cpu")), latency.CpuClock)
