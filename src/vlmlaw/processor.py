"""What cells' cards of old import to load a cell; those of today import `vlmlaw.auto`."""

from vlmlaw.auto import VlmProcessor as VlmProcessor
