"""What a user may say of a stage as a whole: how many of its members may be unsettled at a time, must succeed, or may
die."""

from __future__ import annotations

from typing import Any

from .durations import milliseconds

#: How many members may die: a number of them, or a share between 0 and 1; True for any number, False for none.
Allowance = bool | int | float


def fields(
    *,
    allow_failures: Any = False,
    enough: Any = None,
    limit: Any = None,
    fail_fast: bool = False,
    deadline: Any = None,
    total: int | None = None,
) -> dict[str, Any]:
    """The fields of a stage of several members for what was said of it. `total` is how many members it has, as far as
    that is known. Raises ValueError, and TypeError for a deadline that isn't a time."""
    enough, allowed = valid_enough(enough, allow_failures, total), valid_allowance(allow_failures)
    return {
        "tolerant": allowed is True,
        "allowed": None if isinstance(allowed, bool) else allowed,
        "enough": enough,
        "limit": valid_limit(limit),
        "fail_fast": fail_fast,
        "deadline": valid_deadline(deadline),
    }


def valid_deadline(deadline: Any) -> int | None:
    """In milliseconds. Raises ValueError for less than one, and TypeError for what isn't a time."""
    return None if deadline is None else milliseconds(deadline, "deadline", least=1)


def valid_limit(limit: Any) -> int | None:
    """Raises ValueError for less than 1, or what isn't a whole number."""
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ValueError(f"limit is {limit!r}; it is how many members may be unsettled at a time, at least 1")
    return limit


def valid_allowance(allowed: Any) -> Allowance:
    """Raises ValueError for what is neither a bool, a whole number from 0 on, nor a float between 0 and 1."""
    if isinstance(allowed, bool):
        return allowed
    if (type(allowed) is int and allowed >= 0) or (isinstance(allowed, float) and 0 < allowed < 1):
        return allowed or False
    raise ValueError(
        f"allow_failures is {allowed!r}; it is how many members may die: True for any number of them, False for none, "
        "a whole number from 0 on, or a share of the members as a float between 0 and 1, such as 0.1"
    )


def valid_enough(enough: Any, allowed: Any, total: int | None) -> int | None:
    """`allowed` is what was said besides, and `total` the number of members, as far as it is known. Raises
    ValueError."""
    if enough is None:
        return None
    if type(enough) is not int or enough < 1:
        raise ValueError(f"enough is {enough!r}; it is how many successes complete the stage, at least 1")
    if allowed is not False:
        raise ValueError(
            f"enough={enough} and allow_failures={allowed!r} can't go together: where {enough} successes are enough, "
            "all other members may die"
        )
    if total is not None and enough > total:
        raise ValueError(f"enough is {enough}, and the stage has only {total} members, so it could never be complete")
    return enough
