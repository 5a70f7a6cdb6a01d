"""What is shown of a long text."""

from __future__ import annotations

#: How many characters a `repr` has at most.
MOST_SHOWN = 200


def shortened(text: str, most: int = MOST_SHOWN) -> str:
    """A text of `most` characters at most: the middle of a longer one is left out."""
    end = most // 4
    return text if len(text) <= most else f"{text[: most - end - 1]}…{text[-end:]}"


def beginning_of(text: str, most: int) -> str:
    """A text of `most` characters at most: the end of a longer one is left out."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
