"""The small formats: what one function writes the other reads, and what the scripts write is read for what it says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dramatiq_clutch.stored import owners
from dramatiq_clutch.stored.attendance import MOST_QUEUES, Attendance
from dramatiq_clutch.stored.formats import (
    ERA,
    HAS_NESTED,
    IS_JOB,
    IS_RUN,
    KINDS,
    SPAN,
    failure_in,
    generation_in,
    result_in,
    standing_of,
    success,
)


@given(st.binary())
def test_a_result_is_found_in_the_field_of_a_member_that_has_succeeded(result: bytes) -> None:
    assert result_in(success(result)) == result


@pytest.mark.parametrize("field", [None, HAS_NESTED, IS_RUN, IS_JOB])
def test_a_member_that_has_not_succeeded_has_no_result(field: bytes | None) -> None:
    assert result_in(field) is None


@given(st.integers(0, 400), st.integers(0, 400), st.sampled_from(range(len(KINDS))), st.integers(0, SPAN - 1))
def test_a_member_stands_as_its_score_says_unless_it_is_of_an_earlier_era(
    era: int, present: int, kind: int, member: int
) -> None:
    score = b"%d" % (era * ERA + kind * SPAN + member)
    stands = standing_of(IS_JOB, score, None, era=present, revival=0)
    assert stands == (KINDS[kind] if era == present else "waiting")


@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, SPAN - 1))
def test_a_dead_member_waits_once_a_retry_has_begun(revival: int, present: int, member: int) -> None:
    stands = standing_of(IS_JOB, None, float(revival * SPAN + member), era=0, revival=present)
    assert stands == ("dead" if revival >= present else "waiting")


def test_a_success_stands_whatever_scores_there_are_and_nothing_stands_for_a_member_without_attempt() -> None:
    assert standing_of(success(b""), b"0", b"0", era=1, revival=1) == "succeeded"
    assert standing_of(None, None, None, era=1, revival=1) is None


@pytest.mark.parametrize(
    ("details", "failure"),
    [(b'0 2 {"text": "a b  c"}', b'{"text": "a b  c"}'), (b"2147483648 -1 ", b""), (b"", b"")],
)
def test_a_failure_follows_the_epoch_and_the_attempt(details: bytes, failure: bytes) -> None:
    assert failure_in(details) == failure


@pytest.mark.parametrize(
    ("tombstone", "generation"),
    [(b"done 76543210 claim app", "76543210"), (b"done 76543210  ", "76543210"), (b"buried 76543210 3", "76543210")],
)
def test_a_tombstone_names_the_generation_that_it_is_of(tombstone: bytes, generation: str) -> None:
    assert generation_in(tombstone) == generation
    assert generation_in(None) == ""


def test_no_two_owners_have_one_name() -> None:
    names = [
        owners.SWEEPER,
        owners.TOUCH,
        owners.HEARD,
        owners.job(0, 3),
        owners.job(1, 3),
        owners.job(1, 3, 0, 1),
        owners.job(1, 3, 1, 0),
        owners.call("retry"),
        owners.call("retry"),
        owners.parent("start", 3),
        owners.parent("revive", 3),
        owners.parent("halt", 3),
        owners.child(0, 3, 1),
        owners.child(0, 3, 2),
        owners.gone(0, 3),
    ]
    assert len(set(names)) == len(names)


@given(st.text(), st.text(), st.lists(st.text(), max_size=MOST_QUEUES))
def test_what_a_worker_tells_is_read_as_it_was_written(name: str, broker: str, queues: list[str]) -> None:
    told = Attendance(name, broker, tuple(queues))
    assert str(told).isascii()
    assert Attendance.parse(str(told)) == told


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"worker": "a", "broker": "b", "queues": 3}', "null"])
def test_what_a_worker_of_another_release_tells_may_be_unreadable(text: str) -> None:
    assert Attendance.parse(text) is None
