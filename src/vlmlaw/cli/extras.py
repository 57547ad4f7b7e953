"""Which extra of the package brings a module that a light installation lacks."""

EXTRAS = {
    "report": ("matplotlib", "seaborn", "jinja2", "vl_convert"),
    "train": ("torch", "transformers", "safetensors", "sklearn", "PIL", "tqdm", "tensorboardX", "huggingface_hub"),
    "measure": ("openai",),
    "lora": ("peft",),
    "sheets": ("openpyxl",),
    "workflow": ("snakemake", "dvc", "psutil"),
}


def extra_of(error: ModuleNotFoundError) -> str | None:
    """The extra to install for a module that is missing; None for one that no extra brings."""
    missing = (error.name or "").partition(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if missing in modules), None)
