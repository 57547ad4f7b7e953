"""A model that answers some questions of a small split right and others wrong, for tests of how replies are judged."""

import torch

from vlmlaw.tokens.packing import make_batch
from vlmlaw.training.batches import model_inputs


@torch.enable_grad()
def learn_by_heart(vlm, table, images_of, *, pad_id: int, steps: int = 6) -> None:
    """Train a VLM of four visual tokens for a few steps on all rows of a token table at once."""
    optimizer = torch.optim.Adam([p for p in vlm.parameters() if p.requires_grad], lr=1e-2)
    reads_question = vlm.compressor.needs_question
    for _ in range(steps):
        batch = make_batch(table, range(len(table)), n_visual_tokens=4, pad_id=pad_id, reads_question=reads_question)
        vlm(**model_inputs(batch, images_of(batch.image_rows)), use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
