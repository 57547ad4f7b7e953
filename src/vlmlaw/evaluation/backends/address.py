"""Addresses of servers as they may be shown."""

import re


def shown(url: str) -> str:
    """The address without a name and password that may stand in it."""
    return re.sub(r"//[^/@]*@", "//", url)
