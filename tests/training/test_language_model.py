"""The miniature's language models: questions moved away from their context."""

import numpy as np
import pytest

from vlmlaw.data.shards import Dataset, Record, ShardWriter
from vlmlaw.tokens.packing import make_batch
from vlmlaw.tokens.token_table import PREFIX, tokenize
from vlmlaw.training.language_model import N_PATCHES, move_questions_away


@pytest.fixture
def batch(tmp_path, words):
    """100 rows, so that chance is no matter, of one record with a context and two questions."""
    with ShardWriter(tmp_path / "data") as writer:
        writer.add_record(Record("a", ("shape red", "pet red"), ("disc", "lynx"), context="disc red a1"))
    table = tokenize(Dataset(tmp_path / "data"), words, independent=True)
    return make_batch(table, [0] * 100, n_visual_tokens=1, pad_id=words.pad_token_id)


def test_half_of_the_rows_have_their_questions_moved_and_nothing_else(batch):
    before = batch.position_ids.copy()
    move_questions_away(batch, seed=0, step=3)
    moved = batch.position_ids - before
    questions = batch.segments > PREFIX
    assert (moved[~questions] == 0).all()
    # All questions of a row move together, so that what stands within one keeps its distances.
    gaps = np.array([set(row[of_row]) for row, of_row in zip(moved, questions, strict=True)])
    assert all(len(gap) == 1 for gap in gaps)
    lengths = np.array([gap.pop() for gap in gaps])
    assert lengths.min() == 0 and N_PATCHES / 2 < lengths.max() <= N_PATCHES
    assert 0.3 < (lengths > 0).mean() < 0.7


def test_the_gaps_are_a_function_of_seed_and_step(batch):
    original, seen = batch.position_ids.copy(), []
    for seed, step in ((0, 3), (0, 3), (0, 4), (1, 3)):
        batch.position_ids[...] = original
        move_questions_away(batch, seed=seed, step=step)
        seen.append(batch.position_ids.copy())
    assert np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2]) and not np.array_equal(seen[0], seen[3])
