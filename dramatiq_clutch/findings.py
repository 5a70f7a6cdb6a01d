"""What is found when a system is examined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that `examine` has found: ``[finding.text for finding in examine() if finding.severity == "error"]``.

    `severity` is `error` where runs get lost or stand still, `warning` where they may, and `info` for what is as it
    should be, or couldn't be found out. `text` says what there is, and `way_out` what to do; it is empty where there is
    nothing to do.
    """

    severity: Severity
    text: str
    way_out: str = ""
