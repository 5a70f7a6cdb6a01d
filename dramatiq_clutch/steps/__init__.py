"""What a clutch is made of: steps and stages. Dramatiq's own compositions are turned into these here."""

from .actors import AnyActor, PartialActor, known_brokers
from .encoded import Encoded, Handle
from .members import ACCEPTED, Given, Source, Step, is_step, members_in, members_of, to_encoded, to_member
from .stages import MOST_LEVELS, Composition, Description, Stage, check_levels, fed, name_of, soonest_of

__all__ = [
    "ACCEPTED",
    "MOST_LEVELS",
    "AnyActor",
    "Composition",
    "Description",
    "Encoded",
    "Given",
    "Handle",
    "PartialActor",
    "Source",
    "Stage",
    "Step",
    "check_levels",
    "fed",
    "is_step",
    "known_brokers",
    "members_in",
    "members_of",
    "name_of",
    "soonest_of",
    "to_encoded",
    "to_member",
]
