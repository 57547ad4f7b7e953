"""Serving cells that were trained here by `transformers serve`, which knows the classes of released models only."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from vlmlaw.errors import UserError

NEEDED = ("fastapi", "uvicorn", "openai", "accelerate")


def serve(options: Sequence[str]) -> None:
    """Run `transformers serve` with these options; a cell is then a model named by its folder, cells/<cell>/model.

    The server looks for a model's class by its name in transformers, and for what it reads in transformers' own table
    of classes. Raises UserError where the packages of a server are not installed.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f'a server needs {", ".join(missing)}; install it by `pip install "transformers[serving]"`, or in an '
            "environment of its own."
        )
    import transformers.cli.transformers as command
    from transformers.cli.serving import model_manager
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    from vlmlaw.auto import VlmConfig, VlmForConditionalGeneration

    name = VlmForConditionalGeneration.__name__
    # transformers puts itself into sys.modules anew as it loads: the one that the server looks into is its own.
    setattr(model_manager.transformers, name, VlmForConditionalGeneration)
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[VlmConfig.model_type] = name
    sys.argv = ["transformers", "serve", *options]
    command.main()
