"""Vision towers: images to patch features. Any `AutoModel` with a square grid of patches will do.

Comes in: a folder with a tower's weights, pixels. Goes out: the hidden states of the layers that are asked for, without
class tokens, and attention where a compressor reads it. It knows nothing of compressors' choices or of language models.
"""
