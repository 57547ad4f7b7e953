"""Images with conversations about them: the procedural miniature, LLaVA-style files, and their common format.

Comes in: settings or a user's files. Goes out: shards of square images with conversations (`shards.py`), which
everything else reads. Nothing here knows of models.
"""
