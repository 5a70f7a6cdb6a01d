"""The small formats of what is stored, each with its grammar, and the functions that write and read them.

A format that has a class of its own is written and read by that class, and one that only the scripts use by them; here
are only the grammars of these.

    stage line      OFFSET " " ( TOTAL / "?" ) " " ( 1*LETTER / "-" ) [ " " LIMIT *( " " WORD ) ]
                    0 3 pm 20 into=page name=fetch%20all      `plan.StageLine`; a WORD is "into=" NAME, "allow=" NUMBER,
                                                              "enough=" NUMBER, "deadline=" MS, "wait=" MS,
                                                              "from=" UNIX_MS, "name=" and a percent-encoded name, or
                                                              unknown
    plan's row      "m" MESSAGE / "r" PLAN                    `messages.to_row`, `Plan.to_row`
    callback's row  "m" MESSAGE / "w" MESSAGE                 among a spec's blobs; `messages.row_with_result`
                    the second gets the run's result, too
    plan            pack(SPEC, LINES, ROW...)                 `plan.Plan`; LINES has one stage line a line
    spec            pack(JSON, BLOB...)                       `plan.Spec`; JSON says which blobs there are
    packed          *( LENGTH BYTES ), LENGTH of 4 bytes      `pack`, `unpack`
    duty's id       send:1:0:500:7                            `duties`
    option          {"run": ID, "gen": GENERATION, "stage": 0, "member": 3, "of": 5}
                                                              `places.Tag`, `places.CallbackTag`
    child's id      PARENT "~" STAGE "." MEMBER               `places.Place`
                    run~1.0
    message's id    UUID of GENERATION "/" ID "/" PLACE "/" ACTOR
                    76543210/run/1.0/job                      `places.derived_id`
    owner           0.3                                       `owners`

    member's field  "S" RESULT / "N" / "R" / ""               in the hash `members`, whose field "" tells a live key
                    it has succeeded / its job has nested runs / it is a run, or a job, that has had an attempt
                    1700000000100                             field "" itself: when the stage's first attempt began, in
                                                              UNIX_MS; empty as long as no record has told
    times           UNIX_MS [ " " ( UNIX_MS / "-" ) " " UNIX_MS ]
                    1700000000000 1700000000100 1700000002600 when a stage was released, began and was settled; the
                                                              first is "-", too, if an older release has released it
    standing        ERA * 4 * 2^32 + KIND * 2^32 + MEMBER     a score; KIND is 0 working, 1 attempted, 2 failing
    dead            REVIVAL * 2^32 + MEMBER                   a score
    attempts        EPOCH " " ATTEMPT " " [ FAILURE ]         FAILURE is JSON: `failures.failure_details`
                    0 2 {"actor": "job", ...}
    entry of times  EPOCH " " ATTEMPT " " ( UNIX_MS / "-" ) " " ( UNIX_MS / "-" / "+" ) " " ERA " " WORKER
                    0 1 1700000000100 1700000002600 0 host:12 when the member's last attempt began and ended; it is at
                                                              work ("-"), or its nested runs are ("+")
    outbox entry    JSON: seq, owner, due, lease, cursor, and snapshot, parked, members, epoch where there are any
    tombstone       ("done " / "free ") GENERATION " " CLAIM " " APPLICATION / "buried " GENERATION " " EPOCH
                    buried 76543210 3                         what is left of a run, and what is never to start
    past            *( GENERATION " " )                       those that have had the id, the latest first
    kept            [ STAGE " " GENERATION *( " " STAGE " " GENERATION ) ]
                    2 0123abcd 5 89abcdef                     a field of the head of a run that was rewound: the keys of
                                                              stages below 2 are in the first generation, of those below
                                                              5 in the second, of all others in the run's
    calls           EVENT "=" CALL *( "," CALL ) *( " " EVENT "=" CALL *( "," CALL ) ), CALL = [ ACTOR [ "@" QUEUE ] ]
                    on_finish=log,notify@low                  a field of the head; names are percent-encoded:
                                                              `firings.calls_of`, `firings.calls_in`
    firing          COUNT " " STAGE ":" NUMBER " " GENERATION " " UNIX_MS " " ( [ "!" ] UNIX_MS / "-" )
                    *( " " INDEX ( "S" / "D" / "U" ) UNIX_MS )
                    1 0:4 76543210 1700000000100 1700000000200 0S1700000000900
                                                              a field of the head for each event: `firings.Firing`
    kept failure    STAGE "." MEMBER, and FAILURE             a field of the hash `failures`, and its value
    tally           STAGE " " [ TYPE ], and a number          a field of the hash `tally`, and its value: how many
                    0 ValueError                              members are dead of this exception; TYPE is as in JSON
    snapshot        JSON: head (the run's fields), counts, failures ([MEMBER, FAILURE], ...), kept, tally
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from ..errors import DamagedState, NewerRelease

#: How a member stands that has had an attempt: it is `waiting` to be sent again by a retry; it is `working`, because a
#: retry has sent it again, or because it is a run at work; or its last attempt ended as the other words say.
Standing = Literal["waiting", "working", "attempted", "failing", "dead", "succeeded"]

#: How a run stood at one moment: `head` (the run's fields, all strings), `counts` (of its present stage: `recorded`,
#: `working`, `attempted`, `failing`, `dead`; and `next`, when the first of the failing jobs is attempted again, if any
#: is), `failures` (a list of `[member, failure]`), `kept` (the same of stages that are over: a list of
#: `["STAGE.MEMBER", failure]`), `tally` (how many members are dead, by `"STAGE TYPE"`) and `unsettled` (members of a
#: stage with nested runs; none where the snapshot belongs to a duty). A `RunStatus` is made of it.
Snapshot = Mapping[str, Any]

#: The version of the stored format. A worker leaves a run, a duty or a message of a newer format to newer workers.
FORMAT = 1

#: The first byte of a row of a plan, which says whether it holds a message or the plan of a nested run; or, of a
#: callback that gets the run's result, a message.
MESSAGE, NESTED, WITH_RESULT = b"m", b"r", b"w"


def refuse_newer(version: Any, what: str) -> None:
    """Raises NewerRelease if a format's version is higher than this release reads, and DamagedState if it isn't a
    version. `what` begins the error's text."""
    if type(version) is not int or version < 1:
        raise DamagedState(f"{what} has the format {version!r}, which no release writes")
    if version > FORMAT:
        raise NewerRelease(
            f"{what} has format {version}, and this dramatiq-clutch reads {FORMAT}: a newer release has written it"
        )


def pack(blobs: Sequence[bytes]) -> bytes:
    """Several byte strings as one, each after its length."""
    return b"".join(struct.pack(">I", len(blob)) + blob for blob in blobs)


def unpack(data: bytes) -> list[bytes]:
    """The opposite of `pack`. Raises ValueError or struct.error for what `pack` didn't write."""
    blobs, at = [], 0
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        at += 4
        if at + size > len(data):
            raise ValueError("it is truncated")
        blobs.append(data[at : at + size])
        at += size
    if not blobs:
        raise ValueError("it is empty")
    return blobs


# A member's field


_SUCCEEDED = b"S"


def success(result: bytes) -> bytes:
    """The field of a member that has succeeded with this encoded result."""
    return _SUCCEEDED + result


def result_in(field: bytes | None) -> bytes | None:
    """The encoded result of a member with this field; None unless it has succeeded."""
    return field[1:] if field is not None and field[:1] == _SUCCEEDED else None


#: The field of a member that is a job which has nested runs, of a nested run, and of a job that has had an attempt but
#: no success.
HAS_NESTED, IS_RUN, IS_JOB = b"N", b"R", b""


# When a member was at work


def timing(epoch: int, attempt: int, began: int, ended: int, worker: str) -> str:
    """The entry of a member whose attempt has ended. Its era doesn't matter any more."""
    return f"{epoch} {attempt} {began or '-'} {ended} 0 {worker or '-'}"


def timing_in(entry: str) -> tuple[int | None, int | None, str | None]:
    """When the attempt of this entry began and ended, and its worker's name; None for what isn't known, or is still to
    come. Raises ValueError for what `timing` and the scripts don't write."""
    if not entry:
        return None, None, None
    _, _, began, ended, _, worker = entry.split(" ", 5)
    known = [None if time in ("-", "+") else int(time) for time in (began, ended)]
    return known[0], known[1], None if worker == "-" else worker


# Scores


#: The kinds of members that have a score in `standing`, in the order of their numbers in it.
KINDS: tuple[Standing, ...] = ("working", "attempted", "failing")

#: Factors of scores: SPAN is more than the members that a stage can have, and ERA is the range of four kinds.
SPAN = 2**32
ERA = 4 * SPAN


def failing_scores(era: int) -> tuple[int, int]:
    """The scores `low` ≤ s < `high` that failing members have in `standing`."""
    low = ERA * era + SPAN * KINDS.index("failing")
    return low, low + SPAN


def dead_score(revival: int) -> int:
    """The least score in `dead` of a member that doesn't wait to be sent again."""
    return SPAN * revival


def standing_of(field: bytes | None, standing: Any, dead: Any, *, era: int, revival: int) -> Standing | None:
    """How a member stands, by its field in `members` and its scores in `standing` and `dead` (None if it has none);
    None if it has had no attempt. A member whose score is of an earlier era or revival than the run's waits to be sent
    again."""
    if field is not None and field[:1] == _SUCCEEDED:
        return "succeeded"
    if dead is not None:
        return "dead" if float(dead) >= revival * SPAN else "waiting"
    if standing is None:
        return None
    its_era, rest = divmod(int(float(standing)), ERA)
    return KINDS[rest // SPAN] if its_era == era else "waiting"


# Values that the scripts write and Python reads


def failure_in(details: bytes) -> bytes:
    """The failure in an entry of `attempts`, behind the epoch and the attempt."""
    return details.split(b" ", 2)[-1] if details else b""


def generation_in(tombstone: bytes | None) -> str:
    """The generation of the run that a tombstone is of; an empty string if there is no tombstone."""
    return [*(tombstone or b"").decode().split(" "), "", ""][1]


def done_in(tombstone: bytes | None) -> tuple[str, str, str, bool] | None:
    """The generation, the claim and the application of a run that has succeeded and left this tombstone, and whether
    its id is free; None for any other tombstone, and for none."""
    word, _, rest = (tombstone or b"").decode().partition(" ")
    if word not in ("done", "free"):
        return None
    generation, claim, application = [*rest.split(" ", 2), "", ""][:3]
    return generation, claim, application, word == "free"


def holder_of(stage: int, kept: str, generation: str) -> str:
    """In which generation the keys of a stage that is over are, by the field `kept` of a run of this `generation`."""
    return next((whose for bound, whose in _bounds(kept) if stage < bound), generation)


def sender_of(stage: int, kept: str, generation: str) -> str:
    """In which generation the messages of a stage were sent, by the same field. It isn't always the one that has the
    stage's keys: a generation that begins right after a stage takes them over."""
    return next((whose for bound, whose in _bounds(kept) if stage <= bound), generation)


def kept_below(stage: int, kept: str, generation: str) -> str:
    """The field `kept` for when the stages below `stage` stay where they are, and the run gets a new generation instead
    of `generation`."""
    said, known = list[str](), -1
    for bound, whose in [*_bounds(kept), (stage, generation)]:
        if min(bound, stage) > known:
            known = min(bound, stage)
            said += [str(known), whose]
    return " ".join(said)


def _bounds(kept: str) -> list[tuple[int, str]]:
    words = kept.split()
    return [(int(bound), whose) for bound, whose in zip(words[::2], words[1::2], strict=True)]


def decode_snapshot(snapshot: dict[str, Any], unsettled: Iterable[Any] = ()) -> Snapshot:
    """A snapshot that the scripts have encoded: Lua's JSON writes an empty list as an empty dict. One that an older
    release has written has nothing `kept` and no `tally`."""
    lists = {name: list(snapshot.get(name) or ()) for name in ("failures", "kept", "tally")}
    tally = dict(zip(lists["tally"][::2], map(int, lists["tally"][1::2]), strict=True))
    return {**snapshot, **lists, "tally": tally, "unsettled": [int(one) for one in unsettled]}


def told_in(snapshot: Snapshot) -> Any:
    """The ending that a nested run tells its parent: how the member that it is stands."""
    return snapshot["head"]["told"]


def since_of(snapshot: Snapshot) -> int:
    """The epoch of its parent in which a nested run was started, or revived last."""
    return int(snapshot["head"].get("since", 0))


def is_stalled(snapshot: Snapshot) -> bool:
    """Whether a sweeper has found that the run is stalled, and nothing has happened to it since."""
    return bool(snapshot["head"].get("stalled"))


def present_stage(snapshot: Snapshot) -> tuple[int, str, int]:
    """The present stage, its line, and how many of its members were sent, which only means something if the line has a
    limit. The line is that of an empty stage where a run has no stages."""
    head = snapshot["head"]
    stage = int(head["stage"])
    return stage, head.get(f"s{stage}", "0 0 -"), int(head.get("sent", 0))


def is_done(answer: Any) -> bool:
    """Whether an answer of the script `confirm` says that the caller has nothing more to do for the duty: it is
    confirmed, or another caller holds it."""
    return answer in (b"confirmed", b"lost")
