"""After `import vlmlaw.auto`, transformers' Auto classes load a trained cell: its configuration, model and processor.

Every cell's card has this line, so the name stays, wherever the classes lie.
"""

from vlmlaw.model import VlmForConditionalGeneration
from vlmlaw.processor import VlmProcessor
from vlmlaw.vlm_config import VlmConfig

__all__ = ["VlmConfig", "VlmForConditionalGeneration", "VlmProcessor"]
