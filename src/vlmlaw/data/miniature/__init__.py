"""The miniature: pictures, facts and text of a small made world, in the formats of the real thing.

Comes in: a seed and numbers of images. Goes out: splits as shards, a text corpus and a tokenizer. The same seed gives
the same bytes. It knows of no model and of no training; `write.py` is the way in.
"""
