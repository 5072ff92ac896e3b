"""The one error that a user can cause and repair."""

from __future__ import annotations


class UserError(ValueError):
    """Something the caller asked for cannot be done; the message is one line and says what to do instead.

    The command line prints it without a traceback and ends with exit code 2.
    """
