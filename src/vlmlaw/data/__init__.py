"""Images with questions: the procedural miniature, LLaVA-style data, and the one format that both are stored in."""
