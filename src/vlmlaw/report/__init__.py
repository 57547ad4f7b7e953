"""The report: figures of the laws and the measurements, and one self-contained page that tells the result.

Everything that is drawn or said comes from the law's analysis (`vlmlaw law fit TABLE --out law.json`) and from the
table that it was fitted to; what the workflow knows beyond them (cells, samples, the experiment) is shown where given.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from vlmlaw.settings import as_data, passive_names
from vlmlaw.training.settings import TrainingSettings

TEMPLATES = Path(__file__).parent / "templates"
NOT_OF_THE_RESULT = ("compute", "report")  # sections of an experiment that change nothing the page shows of the run


def templates_version() -> str:
    """A short hash of the page's templates, which are no Python that a fingerprint of code would cover."""
    digest = hashlib.sha256()
    for path in sorted(TEMPLATES.iterdir()):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def described(experiment: Any) -> str:
    """An experiment as JSON for the page, without what changes no result: a rule's parameter."""
    data = {key: value for key, value in as_data(experiment, passive_too=False).items() if key not in NOT_OF_THE_RESULT}
    kept = _without(data, passive_names(TrainingSettings))
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _without(value: Any, names: set[str]) -> Any:
    """Plain data without the keys `names`, at whatever depth: the file's sections are not yet settings."""
    if isinstance(value, dict):
        return {key: _without(item, names) for key, item in value.items() if key not in names}
    return value
