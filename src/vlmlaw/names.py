"""What things are called, in one place: folders, table and report agree on it."""

RULE_OF_RUNNER = {"vlmlaw": "evaluate_benchmark", "lmms-eval": "evaluate_by_lmms_eval"}  # who runs a benchmark
