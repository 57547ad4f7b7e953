"""After `import vlmlaw.auto`, transformers' Auto classes load a trained cell: its configuration, model and processor.

Every cell's card has this line, so the name stays, wherever the classes lie.
"""

from vlmlaw.vlm.config import VlmConfig
from vlmlaw.vlm.model import VlmForConditionalGeneration
from vlmlaw.vlm.processor import VlmProcessor

__all__ = ["VlmConfig", "VlmForConditionalGeneration", "VlmProcessor"]
