"""lmms-eval as the one who asks: its tasks, run on a cell in an interpreter of its own.

Comes in: a cell's folder and a task's name. Goes out: the same scores file that our own benchmarks write. `model.py` is
loaded by lmms-eval, and nothing else of the project imports it.
"""
