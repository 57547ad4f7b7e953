"""Training of cells and of the miniature's encoder and language models, with the loop that they share.

Comes in: data as shards, tokens and features, settings, weights to start from. Goes out: a model's folder, its log and
the time and memory of the run. The data of a step is a pure function of its number, so a resumed run ends bit for bit
where an uninterrupted one does. It knows nothing of the grid, of rules or of how a model is evaluated.
"""
