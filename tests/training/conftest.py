"""What tests of trainings share."""

import os
import signal

import pytest


@pytest.fixture
def terminate_at_call(monkeypatch):
    """A function that has SIGTERM come at the n-th call of a module's function, counted from 1."""

    def arrange(module, name: str, n: int) -> None:
        original, calls = getattr(module, name), []

        def counted(*args, **given):
            calls.append(1)
            if len(calls) == n:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(*args, **given)

        monkeypatch.setattr(module, name, counted)

    return arrange
