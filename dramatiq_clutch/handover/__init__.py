"""Does what a transition owes: opens and sends stages, sends callbacks, starts nested runs, tells the parent; then
confirms.

A duty may be done twice (its lease lapsed while its holder slept), so everything here can be: messages and nested runs
have derived ids, and a second copy is known by its member's state.
"""

from .doing import hand_over
from .sweeping import report_gone, sweep

__all__ = ["hand_over", "report_gone", "sweep"]
