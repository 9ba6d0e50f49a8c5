"""Switches of a config as a command line gives them: every config reads its own through :func:`is_true`."""

from __future__ import annotations

from shared_nets.errors import UsageError


def is_true(value: bool | str) -> bool:
    """
    Whether a switch is on.

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
