"""The vision-language model: a vision tower, a compressor, a projector and a language model as one.

Comes in: pixels or patch features, token ids. Goes out: logits, a loss, generated tokens, and what they cost in FLOPs.
It is a `transformers` model, so that `AutoModelForImageTextToText` loads a trained cell. It knows which cell it is, but
nothing of a grid's files, of experiments or of how it is trained.
"""
