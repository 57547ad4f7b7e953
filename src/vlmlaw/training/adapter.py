"""Low-rank adapters of the language model (LoRA, Hu et al. 2021, arXiv 2106.09685), by peft.

The language model stays as it was loaded, in the arithmetic's dtype; the adapters beside its layers are float32. A
finished cell holds the merged weights, so that it loads like any other.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from vlmlaw.errors import UserError
from vlmlaw.runtime.whole_files import whole_folder
from vlmlaw.training.settings import ALL_LINEAR

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vlmlaw.training.settings import LoraSettings


class Adapter:
    """Adapters in a language model whose own weights are frozen; before training they change nothing.

    Trained adapters are written to `folder` in peft's own layout, with `base` as the model that they belong to.
    Raises UserError if the language model has no layers with the names in the settings.
    """

    def __init__(
        self,
        language_model: PreTrainedModel,
        settings: LoraSettings,
        *,
        folder: Path,
        base: str,
        empty: bool = False,  # without weights, only their shapes
    ):
        from peft import LoraConfig, TaskType, get_peft_model

        self._settings, self._folder, self._base = settings, folder, base
        targets: Any = list(settings.target_modules)
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft divides it by the rank
            lora_dropout=settings.dropout,
            target_modules=ALL_LINEAR if targets == [ALL_LINEAR] else targets,
            task_type=TaskType.CAUSAL_LM,
        )
        linear = {name.rpartition(".")[2] for name, part in language_model.named_modules() if type(part) is nn.Linear}
        try:
            self._adapted: Any = get_peft_model(language_model, config, low_cpu_mem_usage=empty)
        except ValueError as error:
            raise UserError(
                f"training.lora.target_modules: found {', '.join(settings.target_modules)}, which peft refuses "
                f"({error}); {type(language_model).__name__} has the linear layers {', '.join(sorted(linear))}: name "
                f"some of them, or {ALL_LINEAR}."
            ) from error

    def in_copy(self, language_model: PreTrainedModel) -> Adapter:
        """Make adapters of the same shapes, without weights yet, in another copy of the language model."""
        return Adapter(language_model, self._settings, folder=self._folder, base=self._base, empty=True)

    def finish(self) -> None:
        """Write the adapters to their folder and merge them into the weights.

        The language model then has its own class and layers again.
        """
        config = self._adapted.peft_config["default"]
        config.base_model_name_or_path, config.target_modules = self._base, sorted(config.target_modules)
        with whole_folder(self._folder) as folder:
            self._adapted.save_pretrained(str(folder), save_embedding_layers=False)
        self._adapted.merge_and_unload()
