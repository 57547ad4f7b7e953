"""A step's passes: shared out fairly and the same each time, and worth the same however they are cut."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import masking_utils

from vlmlaw.data.shards import Dataset
from vlmlaw.errors import UserError
from vlmlaw.tokens.packing import make_batch, records_of_step
from vlmlaw.tokens.token_table import TokenTable, load_tokenizer, tokenize
from vlmlaw.training.batches import StepPasses, packed_inputs, share_out
from vlmlaw.training.distributed import Machine
from vlmlaw.training.settings import ComputeSettings
from vlmlaw.vlm import packed_attention
from vlmlaw.vlm.image_inputs import ImageInputs

V = 4
CPU = torch.device("cpu")
LAYOUT = {"n_visual_tokens": V, "pad_id": 0, "reads_question": False}


@pytest.fixture(scope="module")
def dialogues(small):
    """The small data set read as dialogues: later questions see earlier ones."""
    return tokenize(Dataset(small.data["train"]), load_tokenizer(small.tokenizer), independent=False)


@pytest.fixture(scope="module")
def trees(small):
    return TokenTable.load(small.tokens["train"])


def random_patches(rows):
    generator = torch.Generator().manual_seed(0)
    return ImageInputs(patches=torch.randn(100, 16, 16, generator=generator)[torch.from_numpy(rows)])


def passes_of(table, *, n_processes=1, rank=0, batch_size=8, reads_question=False, **compute):
    return StepPasses(
        table,
        random_patches,
        batch_size=batch_size,
        seed=0,
        n_visual_tokens=V,
        pad_id=0,
        reads_question=reads_question,
        compute=ComputeSettings(**compute),
        machine=Machine(CPU, rank, n_processes),
    )


@given(
    lengths=st.lists(st.integers(1, 50), min_size=3, max_size=40),
    n_processes=st.integers(1, 3),
    limit=st.none() | st.integers(1, 200),
)
def test_every_record_has_one_place(lengths, n_processes, limit):
    lengths = np.array(lengths)
    shared = share_out(lengths, n_processes=n_processes, tokens_per_pass=limit)
    assert len({len(passes) for passes in shared}) == 1  # processes compute in step
    placed = [record for passes in shared for own in passes for record in own]
    assert sorted(placed) == list(range(len(lengths)))
    assert all(len(own) for passes in shared for own in passes)
    n_passes = sum(map(len, shared))
    over = [own for passes in shared for own in passes if limit and lengths[own].sum() > limit and len(own) > 1]
    assert not over or n_passes + n_processes > len(lengths)  # no record is left for one pass more each


def test_the_load_is_balanced():
    lengths = np.random.default_rng(0).lognormal(5, 0.6, 256).astype(int)
    shared = share_out(lengths, n_processes=4, tokens_per_pass=16_384)
    loads = np.array([[lengths[own].sum() for own in passes] for passes in shared])
    assert loads.max() < 1.02 * loads.min()


def test_fewer_records_than_processes_are_an_error(trees):
    with pytest.raises(UserError, match="2 records cannot be shared out over 3 processes"):
        share_out(np.array([1, 2]), n_processes=3, tokens_per_pass=None)
    with pytest.raises(UserError, match="batch_size is 2, but 3 processes need a record each"):
        passes_of(trees, n_processes=3, batch_size=2)


def losses_and_gradients(model, passes):
    """The step's loss and gradient, of whatever passes it is cut into."""
    model.zero_grad()
    total = 0.0
    for one in passes:
        part = model(**one.inputs, use_cache=False).loss * one.share
        part.backward()
        total += part.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


CUTS = {
    "one after another": {"tokens_per_pass": 60},
    "a record a pass": {"tokens_per_pass": 1},
    "padded": {"layout": "padded"},
    "padded, one after another": {"layout": "padded", "tokens_per_pass": 60},
}


@pytest.mark.parametrize("compressor", ["block_linear", "quecc"])
@pytest.mark.parametrize("kind", ["dialogues", "trees"])
def test_a_step_is_worth_the_same_however_it_is_cut(request, make_vlm, kind, compressor):
    """Loss and gradient: packed or padded, at once or accumulated, by one process or summed over three."""
    table, reads = request.getfixturevalue(kind), compressor == "quecc"
    model = make_vlm(compressor=compressor)
    whole = passes_of(table, reads_question=reads)
    assert whole.packed == (kind == "dialogues")
    expected = losses_and_gradients(model, whole(3))
    assert len(whole(3)) == 1 and expected[0] > 0
    cuts = {name: passes_of(table, reads_question=reads, **cut)(3) for name, cut in CUTS.items()}
    cuts["three processes"] = [
        one
        for rank in range(3)
        for one in passes_of(table, reads_question=reads, n_processes=3, rank=rank, tokens_per_pass=60)(3)
    ]
    for name, passes in cuts.items():
        assert len(passes) > 1 or name == "padded"
        assert sum(one.share for one in passes) == pytest.approx(1)
        loss, gradients = losses_and_gradients(model, passes)
        assert loss == pytest.approx(expected[0], abs=1e-5), name
        torch.testing.assert_close(gradients, expected[1], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_packed_and_alone_agree(make_vlm, dialogues):
    """Logits of each document in a packed row, against transformers' own model on that document alone."""
    model = make_vlm()
    records = [0, 3, 5, 7]
    inputs, work = packed_inputs(dialogues, records, images_of=random_patches, **LAYOUT)
    packed = model(**{k: v for k, v in inputs.items() if k != "targets"}, use_cache=False)
    model.language_model.set_attn_implementation("eager")
    rows = dialogues.image_rows[records]
    ends = inputs["cu_seq_lens_q"].tolist()
    for number, row in enumerate(rows):
        own = slice(ends[number], ends[number + 1])
        alone = model(input_ids=inputs["input_ids"][:, own], images=random_patches(np.array([row]))).logits
        torch.testing.assert_close(packed.logits[:, own], alone, atol=1e-5, rtol=1e-5)
    assert work.n_tokens == work.n_places == ends[-1] and work.n_samples == work.n_images == 4


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("kind", ["dialogues", "trees"])
def test_work_is_counted_right(request, kind, layout):
    """Against the mask of who sees whom, which the padded layout makes."""
    table = request.getfixturevalue(kind)
    passes = passes_of(table, layout=layout)
    (one,) = passes(0)
    batch = make_batch(table, records_of_step(len(table), 8, seed=0, step=0), **LAYOUT)
    real = batch.segments >= 0
    assert one.work.n_tokens == real.sum()
    assert one.work.n_pairs == (batch.attends[:, 0] & real[:, :, None] & real[:, None, :]).sum()
    assert one.work.n_targets == (batch.targets >= 0).sum()
    assert one.work.n_images == len(batch.image_rows) and one.work.n_samples == 8
    assert one.work.n_places == (real.sum() if passes.packed else real.size)


PLACES = ("target_places", "image_places")


def test_places_that_are_known_change_no_bit(make_vlm, dialogues, trees):
    """Losses and gradients are those of places that the model looks for by itself, packed and padded."""
    for table in (dialogues, trees):
        (one,) = passes_of(table, tokens_per_pass=None)(0)
        found = []
        for left_out in ((), PLACES):
            vlm = make_vlm()
            loss = vlm(**{k: v for k, v in one.inputs.items() if k not in left_out}, use_cache=False).loss
            loss.backward()
            found.append({name: p.grad for name, p in vlm.named_parameters() if p.grad is not None} | {"loss": loss})
        assert found[0].keys() == found[1].keys() and len(found[0]) > 20
        assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_pass_asks_the_device_for_no_number(make_vlm, dialogues, monkeypatch):
    """On torch's meta device, which has none to give: a size that the host has to ask for raises.

    Stand-ins: for the kernel of packed rows, and for transformers' question whether a row is packed, which it asks the
    device once a pass.
    """
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda _: None)
    monkeypatch.setattr(
        packed_attention,
        "_document_by_document",
        lambda q, k, v, *_: q + (k + v).repeat_interleave(q.shape[1] // k.shape[1], dim=1),
    )
    vlm = nn.Module.to(make_vlm(), "meta").train()
    inputs, _ = packed_inputs(dialogues, [0, 1, 2], images_of=random_patches, **LAYOUT)
    there = {k: v.to("meta") if isinstance(v, torch.Tensor | ImageInputs) else v for k, v in inputs.items()}
    vlm(**there, use_cache=False).loss.backward()
    for name in PLACES:
        with pytest.raises((RuntimeError, NotImplementedError)):
            vlm(**{k: v for k, v in there.items() if k != name}, use_cache=False)
