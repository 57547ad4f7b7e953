"""Description of an experiment for the page: plain data without settings that change no result."""

import json
from typing import Any

from vlmlaw.settings import as_data, passive_names
from vlmlaw.training.settings import TrainingSettings

NOT_OF_THE_RESULT = ("compute", "report")  # sections of an experiment that change nothing the page shows of the run


def described(experiment: Any) -> str:
    """An experiment as JSON for the page, without settings that change no result; the parameter of a rule."""
    data = {key: value for key, value in as_data(experiment, passive_too=False).items() if key not in NOT_OF_THE_RESULT}
    kept = _without(data, passive_names(TrainingSettings))
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _without(value: Any, names: set[str]) -> Any:
    """Plain data without the keys `names`, at whatever depth: the file's sections are not yet settings."""
    if isinstance(value, dict):
        return {key: _without(item, names) for key, item in value.items() if key not in names}
    return value
