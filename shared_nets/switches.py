"""Switches and numbers of a config, as a command line gives them."""

from __future__ import annotations

from shared_nets.errors import UsageError


def is_true(value: bool | str) -> bool:
    """
    Whether a switch is on: every config reads its own through this.

    Python Fire, MONAI's command line, turns ``False`` into a boolean and leaves ``false``, which JSON users
    type, as text; any text would count as true.

    Args:
        value: true or false, or that as text in any case.

    Raises:
        UsageError: if it is neither.
    """
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, bool):
        return value
    raise UsageError(f"{value!r} is neither true nor false: write one of them.")


def is_number(value: object) -> bool:
    """Whether a setting is a number; true and false, which Python counts as such, are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
