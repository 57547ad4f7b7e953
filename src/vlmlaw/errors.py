"""Errors that a user can act on."""


class UserError(Exception):
    """Bad input. The message names the thing, what was found, what was expected and what to do."""
