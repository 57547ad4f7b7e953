"""Conversations to tokens, and tokens to the rows that a model reads.

Comes in: dialogues, a tokenizer, a chat template. Goes out: a table of tokens with the labels to learn, and batches
with positions and attention rules. An image is only a placeholder here for V visual tokens: this folder sees neither
pixels nor models.
"""
