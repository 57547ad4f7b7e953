"""Trainings: of a cell, of the miniature's encoder and language models; and the loop they share.

Comes in: data as shards, tokens and features, settings, weights to start from. Goes out: a model's folder, its log and
what the run took. What a step trains on is a pure function of its number, so a resumed run ends bit for bit where an
uninterrupted one does. It knows nothing of the grid, of rules or of how a model is judged.
"""
