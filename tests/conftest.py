"""The order of all tests."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that run tools for minutes come first, so that no worker is left alone with them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("workflow") is None)
