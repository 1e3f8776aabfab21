"""What a command may fail with: one line for the user, no traceback."""

from __future__ import annotations


class CommandError(Exception):
    """What the user asked for can not be done; the message is one line for them."""
