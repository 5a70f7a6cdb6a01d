"""The picture of a clutch."""

from __future__ import annotations

import re
from typing import Any

import dramatiq
import pytest

from dramatiq_clutch import Clutch


@pytest.fixture
def actors(stub_broker: Any) -> dict[str, Any]:
    def make(name: str) -> Any:
        @dramatiq.actor(actor_name=name)
        def actor(page: Any = None, pages: Any = None) -> None: ...

        return actor

    return {name: make(name) for name in ("list_pages", "fetch", "merge")}


def test_a_picture_names_the_actors_and_how_they_follow(actors: dict[str, Any]) -> None:
    picture = Clutch(name="nightly").then(actors["list_pages"]).map(actors["fetch"]).then(actors["merge"]).to_mermaid()
    assert picture == (
        "flowchart LR\n"
        '    start1(("nightly"))\n'
        '    n2["list_pages"]\n'
        "    start1 --> n2\n"
        '    n3[["fetch"]]\n'
        '    n2 -->|"map"| n3\n'
        '    n4["merge"]\n'
        "    n3 --> n4\n"
        '    end5(("done"))\n'
        "    n4 --> end5\n"
    )


def test_a_picture_names_the_argument_that_a_value_goes_into(actors: dict[str, Any]) -> None:
    begun = Clutch().then(actors["list_pages"])
    picture = begun.map(actors["fetch"], into="page").then(actors["merge"], pipe="pages").to_mermaid()
    assert '|"map into page"|' in picture
    assert '|"pipe into pages"|' in picture


def test_nested_clutches_are_subgraphs_and_large_stages_stay_small(actors: dict[str, Any]) -> None:
    child = Clutch(name="child").then(actors["fetch"], actors["merge"])
    clutch = Clutch().parallel(child, actors["fetch"]).parallel(actors["fetch"] for _ in range(1000)).parallel([])
    picture = clutch.to_mermaid()
    assert "subgraph s" in picture
    assert '["child"]' in picture
    assert picture.count("subgraph") == len(re.findall(r"^ +end$", picture, re.MULTILINE)) == 1
    assert '["and 992 more"]' in picture
    assert '["no members"]' in picture
    assert len(picture.splitlines()) < 60


def test_no_name_can_break_out_of_its_label() -> None:
    name = 'x"]; click n1 href "javascript:alert(1)" <b>&#34;\n%%'
    picture = Clutch(name=name).to_mermaid()
    (start,) = [line for line in picture.splitlines() if "start" in line and "((" in line]
    label = start.split("((")[1].removesuffix("))")
    assert label.startswith('"')
    assert label.endswith('"')
    assert not set('"<>&;\n%[]') & set(re.sub(r"#\d+;", "", label[1:-1]))
    assert len(picture.splitlines()) == 4
