"""Messages, to and from the rows of a plan."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from dramatiq import JSONEncoder, Message, get_encoder

from ..errors import DamagedState
from .formats import MESSAGE, WITH_RESULT

#: How the row of a message begins whose names need no escaping, and how one ends whose message has no options.
_BEGINS = re.compile(MESSAGE + rb'\{"queue_name":"([^"\\]*)","actor_name":"([^"\\]*)","args":')
_ENDS = b',"options":{},"message_id":"","message_timestamp":0}'


class PlainRow(NamedTuple):
    """What is known of a message that isn't decoded: its names, and its bytes up to its options."""

    queue: str
    actor: str
    body: bytes


def plain(row: bytes) -> PlainRow | None:
    """What is known of the message in a row that needn't be decoded to be sent, because Dramatiq's own encoder has
    written it, and it has no options; None for any other."""
    found = _BEGINS.match(row)
    if found is None or not row.endswith(_ENDS) or type(get_encoder()) is not JSONEncoder:
        return None
    return PlainRow(found[1].decode(), found[2].decode(), row[len(MESSAGE) : -len(_ENDS)])


def to_row(message: Message[Any]) -> bytes:
    """A message as a row. Dramatiq's encoder writes it, without id and timestamp, which it gets when it is sent."""
    return MESSAGE + get_encoder().encode({**vars(message), "message_id": "", "message_timestamp": 0})


def changed(message: Message[Any], **fields: Any) -> Message[Any]:
    """A copy of a message with these fields. Unlike `message.copy(**fields)` it replaces `options` and doesn't merge
    them, and it takes a tenth of the time. Its `args` have to be a tuple, which isn't looked at here."""
    if type(message) is not Message:
        return type(message)(**{**vars(message), **fields})
    copy: Message[Any] = object.__new__(Message)
    vars(copy).update(vars(message), **fields)  # the fields are frozen, and setting each by itself takes longest
    return copy


def message_from(row: bytes) -> Message[Any]:
    """The message that a row holds. Raises DamagedState for a row that holds none."""
    try:
        return Message.decode(row.removeprefix(MESSAGE))
    except Exception as error:  # Dramatiq's encoder raises DecodeError, and a user's may raise anything
        raise DamagedState(f"a stored message can't be decoded: {error}") from error


def row_with_result(row: bytes) -> bytes:
    """The row of a callback that also gets the run's result, made of the row of its message."""
    return WITH_RESULT + row.removeprefix(MESSAGE)


def callback_in(row: bytes) -> tuple[Message[Any], bool]:
    """The message in the row of a callback, and whether it gets the run's result. Raises DamagedState."""
    return message_from(row.removeprefix(WITH_RESULT)), row[:1] == WITH_RESULT
