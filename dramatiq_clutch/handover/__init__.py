"""Does the duties that transitions owe: opens and sends stages, sends callbacks, starts nested runs, tells the parent.
Then it confirms them.

A duty may be done twice, because its lease may lapse while its holder is held up. That does no harm: messages and
nested runs have derived ids, and a second copy of a message is recognised by how its member stands.
"""

from .deleting import delete
from .doing import hand_over
from .rewinding import rewind
from .sweeping import report_gone, sweep

__all__ = ["delete", "hand_over", "report_gone", "rewind", "sweep"]
