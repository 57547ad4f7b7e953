"""Conversations to tokens, and tokens to the rows that a model reads.

Comes in: dialogues, a tokenizer, a chat template. Goes out: a table of tokens with the mask of what is learned, batches
with positions and who attends to whom. An image is a placeholder here that stands for V visual tokens: this folder
never sees a pixel, nor a model.
"""
