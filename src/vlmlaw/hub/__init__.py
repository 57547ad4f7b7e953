"""Pretrained models, of the hub or of folders here: what is pinned, fetched, and of which shape.

Comes in: a model's id and revision. Goes out: the files of exactly that commit, a pin (`model.json`) that a stage keeps
in place of them, and the model's shape before any of its weights are here. It loads no model and knows none of the
classes that would; `training/pretrained.py` checks that what was fetched can be one.
"""
