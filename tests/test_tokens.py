"""Tokens: of leases, of copies of messages. Two that are equal would make one holder of a duty of two."""

from __future__ import annotations

import multiprocessing
import random
from multiprocessing.connection import Connection

import pytest

from dramatiq_clutch.tokens import new_token


@pytest.mark.parametrize("digits", [12, 16])
def test_a_token_has_as_many_digits_as_are_asked_for(digits: int) -> None:
    tokens = {new_token(digits) for _ in range(2_000)}
    assert len(tokens) == 2_000
    assert {len(token) for token in tokens} == {digits}
    assert set("".join(tokens)) <= set("0123456789abcdef")


def test_a_job_that_seeds_the_random_numbers_of_its_process_makes_no_token_come_twice() -> None:
    tokens = []
    for _ in range(2):
        random.seed(0)
        tokens.append(new_token())
    assert tokens[0] != tokens[1]


def tell(outlet: Connection) -> None:
    outlet.send(new_token())
    outlet.close()


@pytest.mark.process
def test_forked_children_make_other_tokens_than_their_parent_and_each_other() -> None:
    forking, tokens = multiprocessing.get_context("fork"), [new_token()]
    for _ in range(2):
        inlet, outlet = forking.Pipe(duplex=False)
        child = forking.Process(target=tell, args=(outlet,))
        child.start()
        tokens.append(inlet.recv())
        child.join()
    tokens.append(new_token())
    assert len(set(tokens)) == 4
