"""Larger LLM or more visual tokens? Scaling laws of vision-language models (Li et al. 2024, arXiv 2411.03312)."""

__version__ = "0.1.0"
