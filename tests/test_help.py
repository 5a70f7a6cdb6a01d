"""What `help()` shows of the public names: each explains itself with an example, and nothing is there that is no
concern of users."""

from __future__ import annotations

import inspect
import pydoc
import re
from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest

import dramatiq_clutch
from dramatiq_clutch import testing
from dramatiq_clutch.backend import ClutchBackend

#: What the package needs of its own classes, and users don't.
INTERNALS = {"completions", "composed", "details", "engine", "fed", "label", "levels", "settings"}

#: Whose methods are told by another page: what Dramatiq calls, and the contract of a store.
CONTRACTS = (dramatiq.Middleware, ClutchBackend)

NAMES = sorted({*dramatiq_clutch.__all__, *testing.__all__})


#: Code in a docstring: inline, or in a block of its own.
CODE = re.compile(r"``[^`]+``|^ *>>> |::\n|^ *\.\. code-block::", flags=re.MULTILINE)


def public(name: str) -> Any:
    found = getattr(testing if name in testing.__all__ else dramatiq_clutch, name)
    return getattr(found, "__wrapped__", found)  # a fixture's function


def attributes_of(kind: type) -> Iterator[tuple[str, Any]]:
    """The public attributes of a class, as far as this package has written them."""
    for name in dir(kind):
        home = next((base for base in kind.__mro__ if name in vars(base)), object)
        if not name.startswith("_") and home.__module__.startswith("dramatiq_clutch"):
            yield name, inspect.getattr_static(kind, name)


def callables() -> Iterator[str]:
    """The dotted names of whatever public a user may call."""
    for name in NAMES:
        yield name
        kind = public(name)
        if not isinstance(kind, type):
            continue
        for attribute, value in attributes_of(kind):
            is_contract = any(hasattr(base, attribute) for base in CONTRACTS if issubclass(kind, base))
            if callable(value) and not is_contract:
                yield f"{name}.{attribute}"


def page_of(value: Any) -> str:
    """What `help()` shows, without its bold letters, which are typed twice."""
    return pydoc.plain(pydoc.render_doc(value))


def doc_of(dotted: str) -> str:
    name, _, attribute = dotted.partition(".")
    return inspect.getdoc(getattr(public(name), attribute) if attribute else public(name)) or ""


def test_what_can_be_called_is_shown_in_an_example() -> None:
    assert [dotted for dotted in callables() if not CODE.search(doc_of(dotted))] == []


@pytest.mark.parametrize("name", [name for name in NAMES if isinstance(public(name), type)])
def test_every_public_attribute_is_explained(name: str) -> None:
    """Methods and properties by their own docstrings, fields by the one of the class."""
    kind = public(name)
    assert kind.__doc__, "it has no docstring of its own"
    for attribute, value in attributes_of(kind):
        if callable(value) or isinstance(value, property):
            assert inspect.getdoc(getattr(kind, attribute)), attribute
        else:
            assert re.search(rf"\b{attribute}\b", kind.__doc__), attribute


def test_help_shows_no_internals() -> None:
    for name in NAMES:
        page = page_of(public(name))
        shown = set(re.findall(r"^ \|  (?:async )?(\w+)(?:\(| =|$)", page, flags=re.MULTILINE))
        assert shown & INTERNALS == set(), name


def test_the_page_of_help_is_read_as_it_is_written() -> None:
    """Otherwise nothing would be found on it."""
    page = page_of(dramatiq_clutch.Clutch)
    shown = set(re.findall(r"^ \|  (?:async )?(\w+)(?:\(| =|$)", page, flags=re.MULTILINE))
    assert {"then", "run", "run_async", "name", "stages"} <= shown
