"""Measured cells from the literature, cited."""
