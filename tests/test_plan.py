"""What is stored and sent: it survives the way, and damage is told, never guessed at."""

from __future__ import annotations

import json
import re
import struct
from contextlib import nullcontext
from typing import Any

import dramatiq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dramatiq_clutch.errors import DamagedState, NewerRelease
from dramatiq_clutch.failures import failure_details
from dramatiq_clutch.status import status_from
from dramatiq_clutch.stored.formats import FORMAT, pack, unpack
from dramatiq_clutch.stored.messages import message_from, to_row
from dramatiq_clutch.stored.places import Tag
from dramatiq_clutch.stored.plan import Spec, StageLine, from_row

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def is_a_spec(data: bytes) -> bool:
    return data == Spec(name="n").to_bytes()


@given(st.binary() | st.binary().map(lambda data: Spec(name="n").to_bytes()[:-1] + data))
def test_a_damaged_spec_is_told(data: bytes) -> None:
    with pytest.raises(DamagedState, match="plan") if not is_a_spec(data) else nullcontext():
        Spec.from_bytes(data)


@given(st.text())
def test_a_damaged_stage_line_is_told(line: str) -> None:
    with pytest.raises(DamagedState, match=re.escape(repr(line))):
        StageLine.parse(line)


@given(JSON | st.dictionaries(st.sampled_from(["run", "stage", "member", "of", "epoch", "repeated"]), JSON))
def test_a_forged_tag_is_told_or_names_a_place(option: Any) -> None:
    try:
        tag = Tag.from_option(option)
    except DamagedState:
        return
    assert 0 <= tag.member < tag.of
    assert tag.run_id


@given(st.binary())
def test_a_damaged_row_is_told(data: bytes) -> None:
    with pytest.raises(DamagedState):
        from_row(data)


@given(st.lists(st.binary(), min_size=1))
def test_packed_blobs_come_back(blobs: list[bytes]) -> None:
    assert unpack(pack(blobs)) == blobs


@given(st.lists(st.binary(), min_size=1), st.integers(min_value=1))
def test_truncated_blobs_are_told(blobs: list[bytes], cut: int) -> None:
    packed = pack(blobs)
    try:
        whole = unpack(packed[: -(cut % len(packed)) or None])
    except (ValueError, struct.error):
        return
    assert whole == blobs[: len(whole)]


def test_a_plan_of_a_newer_release_says_who_can_read_it() -> None:
    newer = pack([json.dumps({"v": FORMAT + 1}).encode()])
    with pytest.raises(NewerRelease, match=rf"format {FORMAT + 1}, and this dramatiq-clutch reads {FORMAT}"):
        Spec.from_bytes(newer)


@pytest.mark.parametrize(
    "line",
    [
        StageLine(0, 3, many=True),
        StageLine(7, None, many=True, mapped=True),
        StageLine(1, 1),
        StageLine(1, 1, piped=True, into="page"),
        StageLine(1, 1, wait=5_000),
        StageLine(1, 1, wait=5_000, start_at=1_700_000_005_000, unknown_words=("wait", "later=1")),
        StageLine(1, 1, name="load"),
        StageLine(
            1, 1, many=True, limit=3, into="page", name="Bilder laden, 100 % = alle \u00e4 😀", unknown_words=("later",)
        ),
        StageLine(1, None, many=True, mapped=True, limit=20, into="seite_ä", unknown_words=("later",)),
    ],
)
def test_a_stage_line_comes_back(line: StageLine) -> None:
    assert StageLine.parse(str(line)) == line


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_stage_line_with_a_name_is_one_line_of_words(name: str) -> None:
    line = str(StageLine(0, 3, name=name))
    assert re.fullmatch(r"0 3 - 0 name=[!-~]+", line)
    assert StageLine.parse(line).name == name


@given(st.text(), st.text(), st.text())
def test_a_spec_comes_back(name: str, queue: str, text: str) -> None:
    row = to_row(dramatiq.Message("q", "a", (text,), {}, {}))
    spec = Spec(name, queue, 17, {"on_failure": (row,), "completion": (row, row)})
    assert Spec.from_bytes(spec.to_bytes()) == spec
    assert message_from(row).args in ((text,), [text])


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@given(st.text())
def test_a_failures_details_are_plain_ascii_whatever_it_says(text: str) -> None:
    assert failure_details(ValueError(text)).isascii()
    assert b"can't be read: RuntimeError" in failure_details(Unspeakable())


@given(st.text())
def test_damaged_details_stop_nobody(details: str) -> None:
    head = {"state": "running", "stage": "0", "stages": "1", "s0": "0 1 -", "created": "1", "updated": "1"}
    counts = {"recorded": 1, "working": 0, "attempted": 0, "failing": 1, "dead": 0}
    status = status_from("r", {"head": head, "counts": counts, "failures": [["0", details]]})
    assert status.failures[0].exception_type
