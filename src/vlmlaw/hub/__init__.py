"""Pretrained models from the hub or local folders: fetching them, pinning them, and reading their shapes.

Comes in: a model's id and revision. Goes out: the files of exactly that commit, a pin (`model.json`) that a stage keeps
in place of them, and the model's shape before its weights are downloaded. It loads no model and knows no model classes;
`training/pretrained.py` checks that fetched files can be loaded as one.
"""
