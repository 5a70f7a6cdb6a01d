"""One-line faults, each of which some test has to notice: what the tests are worth.

`python -m tests.mutants` plants them one after the other, runs only the tests that have to notice (the detector), and
says which one did. A fault that nobody notices is a hole in the tests: write the test.

    python -m tests.mutants                     all
    python -m tests.mutants NAME...             these
    python -m tests.mutants --sample 6          so many, at random
    python -m tests.mutants --new               those that have no row in the table in tests/README.md
    python -m tests.mutants --write             all, and the table; with other options, their rows in it
    CLUTCH_MUTANT=NAME pytest -n 0 tests/...    one of them, with any tests
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support.mutation import FOLDER, LUA, Mutant

REPOSITORY = Path(__file__).parents[1]
README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- mutants: begin -->", "<!-- mutants: end -->"
NOBODY = "**nobody**"

#: What a detector is, as arguments of pytest. Contract and machine run on one store: a fault that only shows as a
#: difference between two stores would not show where both run the same scripts.
DETECTORS = {
    "contract": ("tests/test_contract.py", "-k", "memory"),
    "machine": ("tests/test_machine.py::test_the_search_often_comes_to_runs_that_have_failed_and_were_retried",),
    "explorer": ("tests/explorer",),
}

#: How long one test may take, and all tests of a detector, in seconds.
TEST_LIMIT, LIMIT = 120, 600


def python(name: str, guarantee: str, old: str, new: str, detector: str, file: str = "") -> Mutant:
    return Mutant(name, guarantee, old, new, detector, file, language="python")


SCRIPTS = (
    # How a stage is judged
    Mutant(
        "a failed run stays failed",
        "A failed run of which a member works again is running, so that it can fail again, and be heard of again.",
        "if run.state == 'failed' and not (settled or run.broken) then heal(dead, succeeded) end",
        "",
    ),
    Mutant(
        "a failed run rests at each look",
        "on_finish is sent once per rest, however often a sweeper looks.",
        "elseif run.state ~= 'running' then",
        "elseif false then",
        file="lib/life",
    ),
    Mutant(
        "the alarm rings before all have had an attempt",
        "on_failure comes when every member of the stage has had an attempt.",
        "local alarms = failing + dead > 0 and (breaks or recorded - working >= total) and ring(",
        "local alarms = failing + dead > 0 and ring(",
    ),
    Mutant(
        "a nested run that only works counts as attempted",
        "A nested run has had its attempt when it has succeeded or has told of a failure; one that works has not.",
        "recorded - working >= total) and ring(",
        "recorded >= total) and ring(",
    ),
    Mutant(
        "nobody hears of a single death",
        "on_death comes when the first member of a stage is dead.",
        "if dead > 0 then ring('mourned', 'on_death') end",
        "if dead > 1 then ring('mourned', 'on_death') end",
    ),
    Mutant(
        "an alarm rings each time",
        "on_failure and on_death come once per stage.",
        "if run[flag] then return end",
        "",
    ),
    Mutant(
        "a healed run mourns again",
        "on_death doesn't come again for a member that was dead before the run was taken up again.",
        "set('mourned', dead > 0)",
        "set('mourned', false)",
    ),
    Mutant(
        "a healed run is not rearmed",
        "After a failed run has been taken up again, on_failure comes again for what fails then.",
        "set('alarmed', false)",
        "set('alarmed', true)",
    ),
    Mutant(
        "nobody hears that a run has failed",
        "on_failed comes when the run comes to rest as failed, whatever it fails of.",
        "elseif state == 'failed' then",
        "elseif state == 'failed' and run.error == '' then",
        file="lib/rest",
    ),
    Mutant(
        "a cancelled run is heard of as failed",
        "on_failed comes when the run comes to rest as failed, and at no other rest.",
        "elseif state == 'failed' then",
        "else",
        file="lib/rest",
    ),
    Mutant(
        "of several callbacks one is waited for",
        "What callbacks may read of a run stays until the last of them has ended.",
        "for index = 0, (tonumber(several) or 0) - 1 do call('SADD', callbacks, id .. '.' .. index) end",
        "if several ~= '' then call('SADD', callbacks, id .. '.0') end",
        file="lib/callbacks",
    ),
    Mutant(
        "a tolerant stage waits for its dead",
        "A stage with allow_failures is complete when all its members are settled.",
        "if succeeded >= goal or (settled and not lost) then",
        "if succeeded >= goal then",
    ),
    Mutant(
        "a stage with dead members is complete",
        "A stage is released when every member of the one before has succeeded, and not before.",
        "if succeeded >= goal or (settled and not lost) then",
        "if settled then",
    ),
    Mutant(
        "results stay after they can be read",
        "A stage's results are dropped when nothing can read them any more.",
        "call('UNLINK', before.members, before.standing, before.dead, before.attempts, before.times)",
        "",
    ),
    Mutant(
        "kept results go like any others",
        "With keep_results the results of all stages stay as long as the run.",
        "if not run.keeps then\n    call('UNLINK', before.members,",
        "if true then\n    call('UNLINK', before.members,",
    ),
    Mutant(
        "kept stages are forgotten",
        "What a run keeps expires when the run does, and not before or long after.",
        "return note .. (run.keeps and run.stage > 1 and '+' or '')",
        "return note",
    ),
    Mutant(
        "what is owed is lost when stages are done again",
        "What others wait for, such as a callback, is done before a run is deleted or done again.",
        "if not (parked or MOVES[string.match(id, '^%a+')]) then return true end",
        "",
        file="lib/awaited",
    ),
    Mutant(
        "the earlier pass is forgotten",
        "Late messages of the earlier pass of a run are known, and change nothing.",
        "remember_past(earlier, A_DAY + math.max(run.due - now, 0))",
        "",
        file="rewind",
    ),
    Mutant(
        "failures of the earlier pass stay",
        "When stages are done again, the status tells nothing of how they were done before.",
        "if tonumber(string.match(field, '^%d+')) >= stage then call('HDEL', key, field) end",
        "",
        file="rewind",
    ),
    Mutant(
        "allowed failures are forgotten",
        "Failures that were allowed stay in the status when their stage is over.",
        "if dead > 0 then call('HSET', head, 'd' .. stage, dead) end",
        "",
    ),
    # Failures
    Mutant(
        "failures go with their stage",
        "Failures that were allowed are told until their run goes.",
        "if dead > 0 then keep_failures() end",
        "",
    ),
    Mutant(
        "who succeeds after all stays a failure",
        "A member that dies and succeeds after all is no failure any more.",
        "if tally_off(member) then call('ZREM', here.dead, member) end",
        "call('ZREM', here.dead, member)",
    ),
    Mutant(
        "the dead of before a retry are counted on",
        "A member that is dead, was retried, and dies again, counts once.",
        "    clear_tally()\n",
        "",
    ),
    Mutant(
        "all failures are kept",
        "A run keeps its first 100 failures, and not more, of whichever stages.",
        "local room = MOST_FAILURES - call('HLEN', failures)",
        "local room = MOST_FAILURES",
    ),
    Mutant(
        "kept failures go before the status does",
        "Failures and their counts live as long as the status that has them.",
        "for _, key in ipairs(run.tallied and {failures, tally} or {}) do call('PEXPIRE', key, ttl) end",
        "",
    ),
    Mutant(
        "a callback gets no traceback",
        "The first ten failures that a callback gets have their tracebacks.",
        "for index = most + 1, #listed do",
        "for index = 1, #listed do",
    ),
    Mutant(
        "a callback gets all tracebacks",
        "What goes with a duty stays small: only the first ten failures have their tracebacks.",
        "without_tracebacks(listed, MOST_TRACEBACKS)",
        "",
    ),
    # Limits
    Mutant(
        "a failing member gives its place up",
        "limit is a cap on unsettled members: one that waits for its retry holds its place.",
        "return limit - (run.sent - recorded) - count(WORKING, FAILING)",
        "return limit - (run.sent - recorded)",
    ),
    Mutant(
        "members to be sent again leave their room to others",
        "In a stage with a limit, those that are to be sent again come before those that were never sent.",
        "room = room - waiting",
        "",
    ),
    Mutant(
        "room is not used for a retry",
        "In a stage with a limit, a retry sends its members as soon as there is room.",
        "if waiting > 0 and run.retrying == '' then owe_retry() end",
        "",
    ),
    Mutant(
        "a retry forgets the limit",
        "A retry sends no more members than the limit has room for.",
        "local most = limit and math.min(room_in(limit, call('HLEN', here.members) - 1), MANY) or MANY",
        "local most = MANY",
    ),
    Mutant(
        "a late attempt takes its place back",
        "A late copy of a dead member's message takes no place in a stage with a limit, unless it succeeds.",
        "return not (limit_of(run.line) and call('ZSCORE', here.dead, member))",
        "return true",
        "tests/test_contract.py::test_a_late_attempt_of_a_dead_member_takes_no_place_from_the_limit",
    ),
    Mutant(
        "a limit holds nested runs back that work",
        "A nested run that is retried by itself works, whatever the limit of its stage has room for.",
        "(of_run or ending == 'dead' or has_place(member))",
        "(ending == 'dead' or has_place(member))",
        "tests/test_contract.py::test_a_nested_run_that_is_retried_by_itself_works_beyond_the_limit",
    ),
    Mutant(
        "what fails late keeps a retry from sending it",
        "A retry of a cancelled run sends its jobs, whatever those at work still come to, unless they succeed.",
        "if halted then -- these are sent again",
        "if broken then -- these are sent again",
        "tests/test_contract.py::test_a_retry_after_a_cancel_sends_what_fails_late",
    ),
    Mutant(
        "a job says that it is gone",
        "Only of a nested run the last attempt is one of the present epoch.",
        "if of_run and attempt == LAST then",
        "if attempt == LAST then",
        "tests/test_contract.py::test_the_last_attempt_of_a_job_is_one_of_its_own_epoch",
    ),
    # Retries
    Mutant(
        "members that an earlier retry has not sent are forgotten",
        "Members that an earlier retry hasn't sent yet are sent by the next one.",
        "local found = call('ZRANGEBYSCORE', here.dead, '-inf', below(run.revival * SPAN), 'LIMIT', 0, most)",
        "local found = call('ZRANGEBYSCORE', here.dead, (run.revival - 1) * SPAN, below(run.revival * SPAN), "
        "'LIMIT', 0, most)",
    ),
    Mutant(
        "what waits to be sent again counts as dead",
        "After retry() no member is dead until it dies again.",
        "return call('ZCOUNT', here.dead, run.revival * SPAN, '+inf')",
        "return call('ZCOUNT', here.dead, '-inf', '+inf')",
    ),
    Mutant(
        "a retry of a cancelled run leaves its failing members",
        "retry() of a cancelled run sends all again that haven't succeeded, those that were failing too.",
        "if ends_era then set('era', run.era + 1) end",
        "",
    ),
    Mutant(
        "members stand in the first era",
        "After a cancelled run was retried, its members' attempts count as any others.",
        "call('ZADD', here.standing, run.era * ERA + kind * SPAN + tonumber(member), member)",
        "call('ZADD', here.standing, kind * SPAN + tonumber(member), member)",
    ),
    Mutant(
        "a retried run stays without its results",
        "retry() of a cancelled run keeps the results that it had.",
        "if call('EXISTS', here.halted) == 1 then call('RENAME', here.halted, here.members) end",
        "",
    ),
    Mutant(
        "a retry halts what it revives",
        "What a cancelled run still owed, to cancel its nested runs, goes when it is retried.",
        "if string.find(id, '^halt:' .. stage .. ':') then call('HDEL', outbox, id) end",
        "",
    ),
    Mutant(
        "a stage that was never opened has sent what the one before had",
        "After the retry of a run that was cancelled between two stages, each job's end counts, and nested runs start.",
        "return total and limit_of(run.line) and run.sent or total",
        "return limit_of(run.line) and run.sent or total",
    ),
    Mutant(
        "what a job nests starts in the first epoch",
        "What a job nests after a retry is started in the epoch of that.",
        "then return {run.epoch} end",
        "then return {0} end",
    ),
    Mutant(
        "a parent's retry comes twice",
        "A nested run is revived once for each retry() of its parent, however many duties say so.",
        "if tonumber(call('HGET', head, 'since')) >= tonumber(revived_in) then return answer('nothing') end",
        "",
    ),
    Mutant(
        "a failed duty stays failed",
        "What couldn't be sent is owed again by retry().",
        "duty.parked, duty.owner, duty.due = nil, owner, 0",
        "duty.owner, duty.due = owner, 0",
    ),
    Mutant(
        "an error outlives its retry",
        "After retry() the status shows no error of the time before.",
        "set('error', '')",
        "",
    ),
    Mutant(
        "what a retry gives is dead all the same",
        "A member is sent again once per retry.",
        "call('ZREM', here.dead, unpack(members))",
        "",
    ),
    Mutant(
        "a retry gives others when it is asked again",
        "A retry whose reply was lost gets the same members again: none is skipped.",
        "if not duty.members then",
        "if true then",
    ),
    Mutant(
        "a retry is never over",
        "After a retry is done, a later one sends what has died since.",
        "set('retrying', '')",
        "",
        file="reopen",
    ),
    # Nested runs
    Mutant(
        "a nested run tells what it has told",
        "A nested run tells its parent when it stands otherwise, and not at each look.",
        "if word == run.told and not unheard then return end",
        "",
    ),
    Mutant(
        "an older word is told beside the newer one",
        "A newer word to the parent takes the place of one that isn't told yet.",
        "call('HDEL', outbox, 'tell:' .. (revision - 1))",
        "",
    ),
    Mutant(
        "a failed nested run is only failing",
        "A nested run that has failed or was cancelled is a dead member of its parent.",
        "word = 'dead'",
        "word = 'failing'",
    ),
    Mutant(
        "a nested run is failing until it ends",
        "A nested run whose failing members have all succeeded is no failing member of its parent any more.",
        "elseif run.told == 'failing' or run.told == 'attempted' then",
        "elseif false then",
    ),
    Mutant(
        "the nested runs of a stage are nobody's beyond the first few",
        "All nested runs of a wide stage are halted and revived, however many there are.",
        "owe(kind .. ':' .. stage .. ':' .. from .. ':' .. math.min(from + size, to) .. ':' .. run.epoch, nil, '')",
        "",
    ),
    Mutant(
        "the order of a job that nests stays",
        "What a job's nested runs tell counts from their first word on, whatever attempts the job itself had.",
        "call('HDEL', here.attempts, member) -- its runs",
        "-- its runs",
    ),
    Mutant(
        "a job that has nested may still die",
        "Once a job has succeeded and nested runs, only these runs speak for its place.",
        "if first == 'S' or (first == 'N' and not of_run) then",
        "if first == 'S' then",
    ),
    Mutant(
        "a run that is gone may still speak",
        "A nested run that is gone is dead, whatever it has told, until its parent is retried.",
        "if of_run and attempt == LAST then epoch = run.epoch end",
        "if of_run and attempt == LAST then attempt = 0 end",
    ),
    # Records
    Mutant(
        "the same attempt counts twice",
        "A record that isn't newer (epoch, attempt) than the last one changes nothing.",
        "return epoch > last_epoch or (epoch == last_epoch and attempt > last_attempt)",
        "return epoch > last_epoch or (epoch == last_epoch and attempt >= last_attempt)",
    ),
    Mutant(
        "an older epoch counts",
        "An attempt from before a retry changes nothing any more, unless it succeeds.",
        "return epoch > last_epoch or (epoch == last_epoch and attempt > last_attempt)",
        "return attempt > last_attempt",
    ),
    Mutant(
        "a member that succeeds stays dead",
        "A success is final: a member that was failing or dead before counts as succeeded only.",
        "if stands then unstand(member) end",
        "",
    ),
    Mutant(
        "the last success wins",
        "A member's first recorded success wins; a redelivered job never changes a result.",
        "if first == 'S' or (first == 'N' and not of_run) then",
        "if first == 'N' and not of_run then",
    ),
    Mutant(
        "a place beyond the end counts",
        "Counting is by membership: a message for a place that isn't there releases nothing.",
        "(not total or tonumber(member) >= total) then return {'refused', ''} end",
        "not total then return {'refused', ''} end",
    ),
    Mutant(
        "a succeeded run takes records",
        "Nothing that comes late changes a run that has succeeded.",
        "if run.state == 'succeeded' or run.stage > stage then return {'over'} end",
        "if run.stage > stage then return {'over'} end",
    ),
    Mutant(
        "an expired stage takes records",
        "A missing key releases nothing: what has expired isn't counted on.",
        "if run.stage < stage or not recorded[1] then return {'unknown', ''} end",
        "if run.stage < stage then return {'unknown', ''} end",
        "tests/test_hostile.py::test_a_key_that_has_expired_releases_nothing",
    ),
    Mutant(
        "a child's success leaves it standing in a cancelled run",
        "In a cancelled run the status counts a nested run that has succeeded once, as succeeded.",
        "enter(member, 'S' .. payload, began, here.halted)\n  unstand(member)",
        "enter(member, 'S' .. payload, began, here.halted)",
    ),
    Mutant(
        "another run's job is taken for one of this run",
        "A message of an earlier run under the same id changes nothing in the present one.",
        "local stranger = run.state and run.generation ~= generation and run.state or nil",
        "local stranger = nil",
    ),
    Mutant(
        "what is delayed is taken for lost",
        "A run of which something is delayed isn't stalled before that is due.",
        "wait_until(due)",
        "",
        file="record",
    ),
    Mutant(
        "work is not activity",
        "A run to which something happens isn't stalled.",
        "if renew or ending ~= 'succeeded' or nested ~= '' then touch() else update() end",
        "if renew or ending ~= 'succeeded' or nested ~= '' then touch() end",
    ),
    Mutant(
        "a message goes onward for any duty",
        "A message goes in the step that records the success before it only where that releases it.",
        "if id ~= onward_duty then return false end",
        "",
    ),
    Mutant(
        "a worker takes what isn't its turn",
        "A worker fetches what it has just sent only if nothing else has waited in that queue for longer.",
        "if redis.call('LRANGE', queue, 0, 0)[1] ~= sent[index] then break end",
        "",
        "tests/test_desk.py::test_what_waits_in_the_queue_comes_first",
    ),
    Mutant(
        "the next job of a series takes another's turn",
        "A worker fetches what it sends with a record only if nothing else has waited in that queue for longer.",
        "return true, is_first and dispatch_with",
        "return true, fetches > 0 and dispatch_with",
        detector="tests/test_step.py::test_the_next_job_is_fetched_only_if_it_is_the_first_in_its_queue",
    ),
    Mutant(
        "a message is acked whatever its end has caused",
        "A job's message is acked only when what its end causes is done.",
        "in_words(has_gone, has_kept, asks_for_nothing and ack())",
        "in_words(has_gone, has_kept, ack())",
        "tests/test_desk.py::test_a_message_is_not_acked_before_what_its_end_causes_is_done",
    ),
    Mutant(
        "a job ends with a nested run that told in its place",
        "A member that has succeeded has its times, whatever else was told in its place.",
        "not (known.works or known.nests)",
        "not known.works",
        "tests/test_contract.py::test_a_job_that_succeeds_though_a_nested_run_has_told_in_its_place_has_its_end",
    ),
    # The common case
    Mutant(
        "the last member is left alone",
        "The success that completes a stage releases the next one, with no look of a sweeper between.",
        "if now >= total then",
        "if now > total then",
        file="succeed",
    ),
    Mutant(
        "a second success overwrites the first",
        "A member's first recorded success wins, also in the common case.",
        "local counts = redis.call('HSETNX', members, results[index], results[index + 1]) == 1",
        "local counts = redis.call('HSET', members, results[index], results[index + 1]) == 1",
        file="succeed",
    ),
    Mutant(
        "a key that is gone comes back",
        "A late success of a stage that is over, or of a cancelled run, leaves nothing behind.",
        "if fields == fresh then",
        "if false then",
        file="succeed",
    ),
    Mutant(
        "a bunch is taken out of its turn",
        "A worker fetches a bunch only if it knows which messages it has.",
        "if table.concat(now, ' ') == first then",
        "if true then",
        "tests/test_desk.py::test_a_bunch_is_fetched_only_while_it_is_first",
        file="lib/bunch",
    ),
    Mutant(
        "a queue is maintained for each message",
        "A queue is maintained once, however many messages are sent in a call.",
        "send[once] = '0'",
        "",
        "tests/test_batches.py::test_a_queue_is_maintained_once_for_all_messages_of_a_call",
        file="enqueue",
    ),
    Mutant(
        "a stage with a limit is not looked at",
        "A stage with a limit sends more members as places become free, in the common case too.",
        "elseif batch > 0 and math.floor(before / batch) < math.floor(now / batch) then",
        "elseif false then",
        file="succeed",
    ),
    # Duties
    Mutant(
        "a duty may be had by anybody at once",
        "A duty is its owner's until the lease has lapsed: a stage isn't sent twice because its first jobs are quick.",
        "due = whose == '' and now or now + lease_ms,",
        "due = now,",
    ),
    Mutant(
        "an owner waits for its own lease",
        "The owner of a duty gets it again at once, when its reply was lost.",
        "if duty.owner == owner then return true end",
        "",
    ),
    Mutant(
        "a share for anybody goes to whoever comes by",
        "Shares of work are for sweepers: a nested run that tells how it stands has somebody waiting for it.",
        "return duty.due <= now and (duty.owner ~= '' or owner == 'sweeper')",
        "return duty.due <= now",
    ),
    Mutant(
        "a taken duty may be taken again",
        "Whoever takes a lapsed duty has it to itself for a lease.",
        "duty.due, duty.lease = now + lease_ms, lease",
        "duty.lease = lease",
    ),
    Mutant(
        "a sleeper does what has passed on",
        "Who held a duty whose lease has passed to somebody else changes nothing with it any more.",
        "return duty and not duty.parked and duty.lease == lease and duty or nil",
        "return duty and not duty.parked and duty or nil",
    ),
    Mutant(
        "a sleeper confirms what has passed on",
        "Confirming names the lease, so that a sleeper who wakes up confirms nobody else's duty.",
        "if not owed or owed.parked or owed.lease ~= lease then return 'lost' end",
        "if not owed or owed.parked then return 'lost' end",
        file="confirm",
    ),
    Mutant(
        "a cursor does not renew the lease",
        "Who sends a large stage keeps it as long as it goes on sending.",
        "owed.cursor, owed.due = math.max(owed.cursor, tonumber(cursor)), now + lease_ms",
        "owed.cursor = math.max(owed.cursor, tonumber(cursor))",
        file="confirm",
    ),
    Mutant(
        "what was not sent is confirmed",
        "A stage is confirmed only if its messages are in the queue.",
        "if last[index] ~= sent[index] then return 'unseen' end",
        "",
        "tests/test_confirmation.py",
        file="confirm",
    ),
    Mutant(
        "the last duty leaves all keys",
        "Once a succeeded run owes nothing any more, only its status and result stay.",
        "if is_last and state == 'succeeded' then return 'tidy' end",
        "",
        file="confirm",
    ),
    Mutant(
        "a wide stage lacks a member",
        "Every member of a stage is sent, in whose share it may be.",
        "math.min(next + size, to), nil, index .. '.' .. from)",
        "math.min(next + size, to - 1), nil, index .. '.' .. from)",
    ),
    Mutant(
        "a duty lives for ever",
        "Every key has an expiry from the moment that it exists.",
        "call('PEXPIRE', outbox, lifetime())",
        "",
    ),
    Mutant(
        "what is delayed for longer than a run lives finds it gone",
        "A run's keys outlive whatever of it is delayed.",
        "return run.ttl + math.max(run.due - now, 0)",
        "return run.ttl",
    ),
    Mutant(
        "an empty stage waits for ever",
        "An empty stage completes at once.",
        "if total == '0' or is_overdue() then look() else owe_stage(stage, run.line) end",
        "owe_stage(stage, run.line)",
        file="open",
    ),
    # Waits
    Mutant(
        "a stage does not wait",
        "A stage behind a wait begins so long after the one before is complete.",
        "local from = since + number_in(line, 'wait')",
        "local from = since",
        file="lib/release",
    ),
    Mutant(
        "an empty stage swallows the wait before it",
        "Where a stage has no members, the next one waits in its place.",
        "begin_stage(stage + 1, math.max(now, since))",
        "begin_stage(stage + 1, now)",
        file="lib/completion",
    ),
    Mutant(
        "a stage that waits is stalled",
        "A run isn't stalled while a stage of it waits.",
        "call('HSET', head, 's' .. index, line)\n  wait_until(from)",
        "call('HSET', head, 's' .. index, line)",
        file="lib/release",
    ),
    Mutant(
        "a stage that waits is sent with the record before it",
        "A stage's wait isn't skipped where its job could be sent in the step that records the one before.",
        " or number_in(line, 'wait') > 0 then return {} end",
        " then return {} end",
        file="lib/ahead",
    ),
    # What is reported for the log
    Mutant(
        "nobody reads that a failed run works again",
        "A failed run of which a member works again, or has succeeded after all, has its line in the log.",
        "if succeeded then report('healed', succeeded, dead) end",
        "",
    ),
    Mutant(
        "a run is said to be failing at each look",
        "That a stage is failing is one line in the log.",
        "if alarms then report('failing', succeeded, dead) end",
        "report('failing', succeeded, dead)",
    ),
    Mutant(
        "who has only begun counts as succeeded in the log",
        "A line of the log has how many members have succeeded, whoever causes it.",
        "return found.recorded - found.working - found.attempted - found.failing - found.dead, found.dead",
        "return found.recorded, found.dead",
    ),
    Mutant(
        "the log doesn't say what a run has failed of",
        "A run that fails of an error of its own says of which in its line in the log.",
        "failure = failure or event == 'failed' and run.error or ''",
        "failure = failure or ''",
        file="lib/news",
    ),
    Mutant(
        "a message whose stage is over isn't acked along",
        "A message is acked in the step that records it if nothing is left to do for it, whatever that step has done.",
        "reply[2] == '' and (told or not reply[3])",
        "reply[2] == '' and not reply[3]",
        detector="tests/test_desk.py",
    ),
    # The common step of a series
    Mutant(
        "a second record of a job releases the next one",
        "A stage is released once, by the record that completes it.",
        "if run.began and not recorded[2] then sent, kept",
        "if run.began then sent, kept",
        detector="tests/test_step.py",
    ),
    Mutant(
        "a job whose stage is lost releases the next one",
        "What was recorded of a stage that is gone isn't made up.",
        "if run.began and not recorded[2] then sent, kept",
        "if not recorded[2] then sent, kept",
        detector="tests/test_step.py",
    ),
    Mutant(
        "a next job that couldn't be sent is forgotten",
        "A message that the broker doesn't take is owed.",
        "  if sent then -- otherwise",
        "  if run.began and not recorded[2] then -- otherwise",
        detector="tests/test_step.py",
    ),
    Mutant(
        "a run that keeps its results loses them in a common step",
        "With keep_results the results of all stages stay as long as the run.",
        "run.keeps or ",
        "",
        detector="tests/test_step.py",
        file="lib/step",
    ),
    Mutant(
        "a common step doesn't note when it was at work",
        "A run with timings keeps when each of its members was at work.",
        "run.timed or ",
        "",
        detector="tests/test_step.py",
        file="lib/step",
    ),
    Mutant(
        "a common step begins no deadline",
        "A deadline of a stage counts from when that begins.",
        "run.soonest or ",
        "",
        detector="tests/test_step.py",
        file="lib/step",
    ),
    Mutant(
        "what a job has nested is forgotten in a common step",
        "A job has succeeded when the runs that it has nested have.",
        " and asked.nested == ''",
        "",
        detector="tests/test_step.py",
        file="lib/step",
    ),
    Mutant(
        "a common step puts no expiry off",
        "The keys of a run that is at work don't expire.",
        "not (asked.of_run or asked.renew)",
        "not asked.of_run",
        detector="tests/test_step.py",
        file="lib/step",
    ),
    Mutant(
        "a common step forgets that the run was cancelled before",
        "After a retry, what an attempt of before a cancel has come to doesn't count, unless it has succeeded.",
        "    and run.taken_up == 0 and not (",
        "    and not (",
        detector="tests/test_step.py",
        file="lib/step",
    ),
    Mutant(
        "a common step leaves what a run owes",
        "Whoever records a job's end is given what the run owes.",
        "    and call('EXISTS', outbox) == 0\n",
        "",
        detector="tests/test_step.py",
        file="lib/step",
    ),
    Mutant(
        "the log isn't told of a common step",
        "Each stage that is released has its line in the log.",
        "    add_news('released', 1, 0)\n",
        "",
        detector="tests/test_step.py",
        file="lib/step",
    ),
    # What is said about a run
    Mutant(
        "a snapshot carries the context",
        "A context, which may be large, doesn't travel with every status.",
        "context = true, ",
        "",
        file="lib/snapshot",
    ),
    # What can't be done
    Mutant(
        "a callback that can't be sent rings the alarm",
        "on_failure isn't sent for a callback that can't be sent.",
        "if not callback then ring('alarmed', 'on_failure') end",
        "ring('alarmed', 'on_failure')",
        file="fail",
    ),
    Mutant(
        "a callback that can't be sent is sent by a retry",
        "A callback that couldn't be sent isn't owed again by retry(): it tells of a moment that is over.",
        "if callback or (run.state == 'succeeded' and not tells) then",
        "if run.state == 'succeeded' and not tells then",
        file="fail",
    ),
    Mutant(
        "a callback that can't be sent keeps the run",
        "A run doesn't wait for the end of a callback that couldn't be sent.",
        "call('SREM', callbacks, id)",
        "",
        file="fail",
    ),
    # The end
    Mutant(
        "what is owed finds nothing any more",
        "What a succeeded run needs for its duties stays until they are done.",
        "if call('EXISTS', outbox) == 1 then return end",
        "",
    ),
    Mutant(
        "a late duplicate finds no tombstone",
        "A late copy of a message is known and skipped for a day after its run has gone.",
        "call('SET', tombstone, (run.frees and 'free ' or 'done ') .. whose, 'PX', claims and run.ttl or A_DAY)",
        "",
    ),
    # An id is had by one run after the other
    Mutant(
        "what is at work is deleted",
        "A run at work isn't deleted: it has to be cancelled first.",
        "if run.state == 'running' then return {'works', ''} end",
        "",
        file="delete",
    ),
    Mutant(
        "a callback is deleted with its run",
        "A run isn't deleted before its callbacks are sent, and its nested runs cancelled.",
        "if is_awaited(outbox) then return answer('owing') end",
        "",
    ),
    Mutant(
        "late messages of a deleted run are strangers",
        "Late messages of a run that was deleted or replaced are skipped, and are no dead letters.",
        "remember_past(generation, late)",
        "",
    ),
    Mutant(
        "only the last run of an id is remembered",
        "So are those of the last runs that have had the id, and not only of the very last one.",
        "known = string.sub(whose .. ' ' .. known, 1, MOST_PAST)",
        "known = whose .. ' '",
    ),
    Mutant(
        "a late start takes the place of a later run's",
        "A nested run that is started late doesn't take the place of one that is nested in a later run of the same id.",
        "or nested and is_past(generation) then",
        "then",
    ),
    Mutant(
        "a run that may make room ends for good",
        "A run that takes the place of one that has just succeeded is found by sweepers, come what may.",
        "return run.state == 'succeeded' and run.claim == '' and not run.keeps and 'ends' or 'rests'",
        "return run.state == 'succeeded' and 'ends' or 'rests'",
    ),
    Mutant(
        "an id stays claimed that was to be free",
        "With unique='while_running' an id is free when its run is at rest, also when the result has expired.",
        "(run.frees and 'free ' or 'done ') .. whose",
        "'done ' .. whose",
    ),
    Mutant(
        "a callback finds no status",
        "A callback finds the status and the result of its run, however late it is.",
        "local called = run.events ~= '' and call('EXISTS', callbacks) == 1",
        "local called = false",
    ),
    Mutant(
        "a nested run stays",
        "Of a nested run that has told its parent nothing stays but a tombstone.",
        "if run.told ~= '' and not called then",
        "if false then",
    ),
    Mutant(
        "a callback that has ended is still waited for",
        "A run goes with the last of its callbacks.",
        "call('SREM', callbacks, duty)",
        "",
        file="heard",
    ),
    # When callbacks fired
    Mutant(
        "each time an event fires is its first",
        "Of an event that fires again it is told how often it has.",
        "words = {(string.match(noted, '^%d+') or 0) + 1, ",
        "words = {1, ",
        "tests/test_contract.py::test_of_an_event_that_fires_again_the_last_time_is_told_and_how_often_it_was",
        file="lib/firings",
    ),
    Mutant(
        "what is told of an earlier time is taken for the last",
        "A callback whose event has fired again stands as that time says, whenever an earlier one is sent or ends.",
        "if its == place then return",
        "if its then return",
        "tests/test_contract.py::test_of_an_event_that_fires_again_the_last_time_is_told_and_how_often_it_was",
        file="lib/firings",
    ),
    Mutant(
        "a callback that is sent stays owed",
        "It is noted that a callback was sent in the step that confirms it.",
        "note_sent(duty, now)",
        "",
        "tests/test_contract.py::test_a_callback_is_unfired_then_owed_then_sent_and_then_it_has_ended",
        file="confirm",
    ),
    Mutant(
        "nobody knows when a run's last callback was sent",
        "It is noted that a callback was sent also if nothing else is owed.",
        "note_sent(id, now)",
        "",
        "tests/test_contract.py::test_a_callback_is_unfired_then_owed_then_sent_and_then_it_has_ended",
        file="tidy",
    ),
    Mutant(
        "what could not be sent was sent",
        "A callback that couldn't be sent is dead, and wasn't sent.",
        "note_sent(id, '!' .. now)",
        "note_sent(id, now)",
        "tests/test_contract.py::test_a_callback_that_cannot_be_sent_is_dead_and_was_not_sent",
        file="fail",
    ),
    Mutant(
        "a second copy of a callback undoes its success",
        "A callback that has succeeded has, whatever becomes of a second copy of its message.",
        "if not event or string.find(ends, ' ' .. which .. 'S', 1, true) then return end",
        "if not event then return end",
        "tests/test_contract.py::test_a_callback_that_ends_twice_has_succeeded_if_it_has_once",
        file="lib/firings",
    ),
    # Cancelling
    Mutant(
        "a cancelled run sends what it owed",
        "Nothing is sent or started any more once a run is cancelled.",
        "if MOVES[string.match(id, '^%a+')] then call('HDEL', outbox, id) end",
        "",
    ),
    Mutant(
        "a late success counts in a cancelled run",
        "What a job does after its run was cancelled is dropped.",
        "if call('EXISTS', here.members) == 1 then call('RENAME', here.members, here.halted) end",
        "",
        file="cancel",
    ),
    Mutant(
        "what a job has nested is not halted",
        "Cancelling a run cancels its nested runs, those that its jobs have nested too.",
        "return has_nested() and sent_so_far() or 0",
        "return has_flag('r') and sent_so_far() or 0",
    ),
    Mutant(
        "a cancelled parent cancels what it has revived since",
        "A nested run that its parent has revived isn't cancelled by what an earlier cancel still owed.",
        "if bury ~= '' and tonumber(call('HGET', head, 'since')) > tonumber(bury) then return answer('over') end",
        "",
        file="cancel",
    ),
    Mutant(
        "a cancelled run's jobs go on",
        "Queued jobs of a cancelled run are skipped.",
        "local rests = run[1] == 'succeeded' or run[1] == 'cancelled' or run[5] == '1'",
        "local rests = run[1] == 'succeeded' or run[5] == '1'",
        file="guard",
    ),
    # A run that fails while members are unsettled, and how many members it takes
    Mutant(
        "a run that fails fast waits for all",
        "With fail_fast, one death too many fails the run at once.",
        "local breaks = lost and has_flag('f')",
        "local breaks = lost and settled",
    ),
    Mutant(
        "a run that broke off lets its jobs work",
        "What is queued when a run breaks off is skipped.",
        "run[1] == 'cancelled' or run[5] == '1'",
        "run[1] == 'cancelled'",
        file="guard",
    ),
    Mutant(
        "a run that broke off heals by itself",
        "A run that has broken off stays failed until it is retried, or late successes complete its stage.",
        "not (settled or run.broken) then heal(dead, succeeded) end",
        "not settled then heal(dead, succeeded) end",
    ),
    Mutant(
        "cancelled nested runs die for a run that broke off",
        "A nested run that is cancelled because its parent broke off is unsettled, and not dead.",
        "if run.broken and ending ~= 'succeeded' and (of_run or ending ~= 'dead') then",
        "if run.broken and ending ~= 'succeeded' and ending ~= 'dead' then",
    ),
    Mutant(
        "a retry sends only the dead of a run that broke off",
        "retry() of a run that has broken off sends all that hasn't succeeded.",
        "local halted = broken or run.state == 'cancelled'",
        "local halted = run.state == 'cancelled'",
    ),
    Mutant(
        "what a retried run came to before breaks it off again",
        "What a job or a nested run came to before the retry of a run that broke off doesn't break it off again.",
        "return epoch < run.taken_up and",
        "return false and",
    ),
    Mutant(
        "what a job has nested breaks a retried run off again",
        "That holds for what a job has nested, too.",
        "(first ~= 'N' or waits(member))",
        "first ~= 'N'",
    ),
    Mutant(
        "what a job nests after a retry is told in vain",
        "What a job's nested runs tell counts, though the job was sent before the retry.",
        "(first ~= 'N' or waits(member))",
        "true",
    ),
    Mutant(
        "what a run nests while it has broken off begins",
        "Nothing is started in a run that has broken off.",
        "if not run.broken then owe('start:' .. stage .. ':' .. member) end",
        "owe('start:' .. stage .. ':' .. member)",
    ),
    Mutant(
        "a share is rounded as computers do",
        "allow_failures=0.29 lets 29 of 100 members die.",
        "math.floor(allowed * total + 1e-9)",
        "math.floor(allowed * total)",
    ),
    Mutant(
        "enough is never more than there is",
        "In a mapped stage, enough above the number of items means all items.",
        "enough = math.min(enough, total)",
        "",
    ),
    Mutant(
        "what is skipped goes on",
        "A nested run that is skipped is cancelled.",
        "if skipped > 0 then skip(skipped) end",
        "",
    ),
    Mutant(
        "a retry forgets whom an earlier stage has skipped",
        "What a stage has skipped is cancelled, though a later stage is retried meanwhile.",
        "if string.find(id, '^halt:' .. stage .. ':') then",
        "if string.find(id, '^halt:') then",
    ),
    Mutant(
        "what was skipped is forgotten before it is cancelled",
        "What a skipped member's job has nested is cancelled, whenever that is done.",
        "if string.find(id, '^halt:' .. (stage - 1) .. ':') then return end",
        "",
    ),
    # Deadlines
    Mutant(
        "a deadline lets nothing fail",
        "A run that isn't complete by its deadline fails, whoever looks at it then.",
        "if is_overdue() then exceed() else judge() end",
        "judge()",
    ),
    Mutant(
        "a deadline is the failure of a run at rest",
        "A run at rest fails of no deadline.",
        "if run.state ~= 'running' then return end",
        "",
        file="lib/deadline",
    ),
    Mutant(
        "jobs are let run after the deadline",
        "What is queued when a deadline is over is skipped, though nobody has seen yet that it is.",
        "if run[1] == 'running' and tonumber(run[2]) == stage and now >= by then return 'over' end",
        "",
    ),
    Mutant(
        "a retry is late from its beginning",
        "retry() begins new deadlines.",
        "begin_deadlines(run.line, true)",
        "",
        file="retry",
    ),
    Mutant(
        "a deadline counts from the run's start",
        "The deadline of a stage counts from when the stage begins.",
        "math.max(since, number_in(line, 'from')) + stage_ms",
        "(run.stage_by or now) + stage_ms",
    ),
    Mutant(
        "a nested run that isn't to start yet is late",
        "The deadlines of a nested run count from its start, where its stage waits or the run around it is delayed.",
        "nested and math.max(now, due) or now",
        "now",
        file="seal",
    ),
    Mutant(
        "nobody looks in time at a stage that is released meanwhile",
        "A deadline is kept though no message comes, also of a stage that is released after the last look.",
        "run.stage_by or math.huge, now + run.soonest)",
        "run.stage_by or math.huge)",
    ),
    Mutant(
        "a run that had failed before its deadline stays failed",
        "A failed run can be retried, whatever has come of its members since, and whichever deadline is over.",
        "(run.broken or (run.error == '' and is_overdue()))",
        "run.broken",
    ),
    # Guarding
    Mutant(
        "a job that has nested works again",
        "A redelivered job that has succeeded isn't executed again, if its nested runs still work either.",
        "if first == 'S' or first == 'N' then return 'done' end",
        "if first == 'S' then return 'done' end",
        file="guard",
    ),
    Mutant(
        "a job of an earlier run works",
        "A message of an earlier run under the same id isn't executed.",
        "if not run[1] or run[4] ~= generation then",
        "if not run[1] then",
        file="guard",
    ),
    # Sending again, and sweeping
    Mutant(
        "a resend begins no epoch",
        "What is sent again by hand replaces the attempts from before.",
        "set('epoch', run.epoch + 1)",
        "set('epoch', run.epoch)",
        file="resend",
    ),
    Mutant(
        "a resend forgets the limit",
        "Sending again by hand sends nothing that a limit holds back.",
        "sent_so_far()",
        "total",
        file="resend",
    ),
    Mutant(
        "a delayed run is stalled",
        "A run of which something is delayed isn't stalled, for as long as the sweeper is told.",
        "not run.stalled and run.due <= now and",
        "not run.stalled and",
        file="sweep",
    ),
    Mutant(
        "a stalled run is told of at each look",
        "That a run is stalled is told once.",
        "not run.stalled and run.due <= now and",
        "run.due <= now and",
        file="sweep",
    ),
    Mutant(
        "a run with nested ones is stalled",
        "A run whose nested runs work isn't stalled.",
        "if has_nested() and not waits_for_jobs then",
        "if false then",
        file="sweep",
    ),
    # Creating
    Mutant(
        "another application's run is taken for one's own",
        "A run belongs to the application that has started it.",
        "if its_app ~= app then return {'foreign', its_app} end",
        "",
        file="seal",
    ),
    Mutant(
        "a repeated creation finds the run to be somebody else's",
        "A call of run() whose reply was lost gets what it is to do when it is repeated.",
        "return answer(token == owner and 'created' or 'exists')",
        "return {'exists', ''}",
        file="seal",
    ),
    Mutant(
        "another clutch is joined under a taken id",
        "A different clutch under a known id is an error.",
        "if run.claim ~= claim then return {'taken', ''} end",
        "",
        file="seal",
    ),
    Mutant(
        "half a plan is sealed",
        "A run whose plan has expired while it was written isn't started.",
        "if call('LLEN', draft) ~= math.max(rows, 1) then return {'expired', ''} end",
        "",
        file="seal",
    ),
    Mutant(
        "a repeated chunk is written twice",
        "A client that repeats a call whose reply was lost writes nothing twice.",
        "if there == offset and #entries > 0 then",
        "if #entries > 0 then",
        file="draft",
    ),
    # What the pieces say of a run
    Mutant(
        "a limit is not read",
        "At most `limit` members of a stage are on their way.",
        "return limit ~= 0 and limit or nil",
        "return nil",
    ),
    Mutant(
        "what a job has nested is not seen",
        "Cancel and retry() reach the runs that jobs have nested, as those that are written down.",
        "return has_flag('r') or call('EXISTS', here.nests) == 1",
        "return has_flag('r')",
    ),
    Mutant(
        "what waits to be sent again counts as succeeded",
        "In a status, a member that waits to be sent again is pending.",
        "working = count(WORKING) + count_waiting()",
        "working = count(WORKING)",
    ),
    Mutant(
        "the tombstone of another run is taken for one's own",
        "A message of a run that is gone isn't known by the tombstone that another run has left under that id.",
        "return what ~= nil and whose == generation",
        "return what ~= nil",
    ),
    Mutant(
        "members are sent in others' places",
        "Each member of a stage is sent with its own message, wherever its rows begin.",
        "call('LRANGE', plan, offset + from, offset + to - 1)",
        "call('LRANGE', plan, from, to - 1)",
    ),
    Mutant(
        "a look sees nothing",
        "Whoever looks at a run finds what follows from how its members stand, though nobody had seen to it before.",
        "look()\nclean_up()",
        "clean_up()",
        file="owed",
    ),
    Mutant(
        "a word that was lost is not told again",
        "A nested run of which its parent hasn't heard tells it again.",
        "look(run.told ~= '' and run.told ~= 'working')",
        "look()",
        file="retell",
    ),
    Mutant(
        "a run is shown as of another stage",
        "A status shows the stage that is at work.",
        "if run.stage ~= stage then return {'moved'} end",
        "",
        file="snapshot",
    ),
    Mutant(
        "the last duty is never done",
        "What a succeeded run owes last is done once, and then it owes nothing.",
        "call('HDEL', outbox, id)",
        "",
        file="tidy",
    ),
    Mutant(
        "what is delayed is not waited for",
        "A run of which something is delayed lives until then, and for its time to live from then on.",
        "wait_until(due)",
        "",
        file="touch",
    ),
    Mutant(
        "a run that works again is forgotten",
        "A run that was put down for another look meanwhile isn't taken out of the index.",
        "if tonumber(redis.call('ZSCORE', index, run_id) or -1) ~= instead then return 0 end",
        "",
        file="put_down",
    ),
    # The register
    Mutant(
        "the status loses what is shown",
        "The status of a run that is kept to be looked at shows what it showed.",
        "local SPARED = {",
        "local SPARED = {'name',",
        "tests/test_listing.py::test_a_status_that_is_kept_shows_what_it_showed_and_takes_little_room",
        file="lib/history",
    ),
    Mutant(
        "a late turn wins",
        "An older turn never takes the place of a newer one in the register.",
        "return tonumber(turns) >= tonumber(its_turns)",
        "return true",
        "tests/test_listing.py::test_a_turn_that_comes_late_changes_nothing",
        file="lib/entry",
    ),
    Mutant(
        "an entry stays under its old labels",
        "A run is found under its present state only.",
        "if labels then call('ZREM', places,",
        "if false then call('ZREM', places,",
        "tests/test_listing.py::test_a_turn_that_comes_late_changes_nothing",
        file="lib/entry",
    ),
    Mutant(
        "the newest leave the register",
        "Of too many runs that have ended the oldest leave first.",
        "return one.at < other.at",
        "return one.at > other.at",
        "tests/test_listing.py::test_of_too_many_runs_the_oldest_leave_a_hundred_at_a_time",
        file="enlist",
    ),
    Mutant(
        "a page forgets its other filters",
        "A page has only runs that are wanted, and looks at no others.",
        "is_wanted and (other == label or call(",
        "is_wanted and (true or call(",
        "tests/test_listing.py::test_only_runs_that_have_all_labels_are_found",
        file="page",
    ),
    Mutant(
        "a run that leaves the register loses its result",
        "A run that isn't kept to be looked through stays as long as its result.",
        "return redis.call('PEXPIRE', head, ttl)",
        "return redis.call('DEL', head)",
        "tests/test_listing.py::test_when_there_are_too_many_the_oldest_keep_only_their_results",
        file="shorten",
    ),
    Mutant(
        "a sweeper does not tell the register",
        "Whatever a killed process hasn't told the register, a sweeper does.",
        "turned = run.told == ''",
        "turned = turned",
        "tests/test_listing.py::test_a_sweeper_tells_the_register_of_a_run_whose_producer_was_killed",
        file="lib/turn",
    ),
    # The members of a stage, each by itself
    Mutant(
        "members whose stage has skipped them are dead",
        "A dead member that waited to be sent again when its stage was complete without it is skipped.",
        "if not over then return run.revival * SPAN end",
        "if true then return over and 0 or run.revival * SPAN end",
        "tests/test_contract.py::test_a_member_that_waits_when_its_stage_is_complete_without_it_is_skipped",
    ),
    Mutant(
        "what is left of a run that broke off seems to be sent",
        "Of a run that was cancelled or has broken off, what isn't settled is shown as unsent.",
        "if era ~= run.era or halts then return 'unsent' end",
        "if era ~= run.era then return 'unsent' end",
        "tests/test_contract.py::test_of_a_run_at_rest_with_unsettled_members_these_are_unsent",
    ),
    Mutant(
        "each record says anew when the stage began",
        "A stage began when its first record tells that its attempt did.",
        "if before == 0 and began ~= '' then redis.call(",
        "if began ~= '' then redis.call(",
        "tests/test_contract.py::test_a_stage_tells_when_it_was_released_began_and_was_settled",
    ),
    Mutant(
        "an attempt that begins after the first makes its stage begin later",
        "A stage began when its first record tells that its attempt did.",
        "if run.began ~= '' or began == '' then return",
        "if began == '' then return",
        "tests/test_contract.py::test_a_run_that_rested_and_is_retried_has_ended_when_it_rests_again",
    ),
    Mutant(
        "what succeeds after a cancel does not say when the stage began",
        "A stage has begun when a nested run of it succeeds, also if its run was cancelled before.",
        "enter(member, 'S' .. payload, began, here.halted)",
        "call('HSET', here.halted, member, 'S' .. payload)",
        "tests/test_contract.py::"
        "test_a_nested_run_that_succeeds_after_a_cancel_tells_when_the_stage_began_if_it_is_the_first",
    ),
    Mutant(
        "an attempt that has ended begins once more",
        "A call that comes late or twice, and an older attempt, don't make a member seem to begin.",
        "if compare(known, epoch, attempt, began) < 0 then write_entry(",
        "if true then write_entry(",
        "tests/test_contract.py::test_only_a_later_attempt_begins",
    ),
    Mutant(
        "an older attempt's end is the member's",
        "A member's times are those of its last attempt that has begun, or of the one that has succeeded.",
        "elseif ending ~= 'succeeded' and (known.epoch > epoch or",
        "elseif false and (known.epoch > epoch or",
        "tests/test_contract.py::test_an_older_attempts_end_is_not_the_members_unless_it_succeeds",
    ),
    Mutant(
        "what was at work before a cancel seems to be",
        "What a retry sends again isn't shown as working before it has begun.",
        "return entry.works and entry.era == run.era",
        "return entry.works",
        "tests/test_contract.py::test_what_was_at_work_before_a_run_came_to_rest_is_not_after_its_retry",
    ),
    Mutant(
        "a job that has nested runs ends before these",
        "A job that has nested runs is at work until these are done, however often it is recorded.",
        "elseif nested ~= '' then\n    ended = '+'",
        "elseif nested ~= '' then\n    ended = '-'",
        "tests/test_contract.py::test_a_job_that_has_nested_runs_ends_when_these_do",
    ),
    Mutant(
        "a success in parallel has no end",
        "Each success in a run with timings says when its job ended, however it is recorded.",
        "for index = 1, timed and #words or 0 do",
        "for index = 1, 0 do",
        "tests/test_contract.py::test_a_member_tells_when_and_where_it_was_at_work",
        file="succeed",
    ),
    Mutant(
        "who is given a share is not told of the others",
        "A sweeper that is given one share of what a run owes asks again until none is left, whatever the run's state.",
        "if is_share and has_share then more = true else",
        "if is_share and has_share then more = run.state == 'running' else",
        "tests/test_contract.py::"
        "test_a_run_that_has_succeeded_owes_all_shares_of_a_cancel_though_a_callback_could_not_be_sent",
    ),
    Mutant(
        "a retry after a cancel forgets when the stage began",
        "A retry doesn't change when a stage began.",
        "call('HSETNX', here.members, '', '')",
        "call('HSET', here.members, '', '')",
        "tests/test_contract.py::test_a_run_that_rested_and_is_retried_has_ended_when_it_rests_again",
    ),
    Mutant(
        "the alarm of a run that fails does not say when it ended",
        "What a callback is told of a failed run has when that ended.",
        "stop('failed') -- before the snapshot of the alarm",
        "set('state', 'failed')",
        "tests/test_contract.py::test_a_duty_that_can_not_be_done_settles_the_stage_before_the_alarm_tells",
    ),
    Mutant(
        "a stage that is done again still waits",
        "A stage that is done again doesn't wait before it begins, even if it was cancelled while it waited.",
        "math.min(number_in(line, 'from'), now)",
        "number_in(line, 'from')",
        "tests/test_contract.py::test_a_stage_that_is_done_again_while_it_waits_begins_at_once",
    ),
    Mutant(
        "a stage that is done again was settled before",
        "A rewind begins the times of its stages anew.",
        "'broken', '0', 'taken_up', 0,\n  't' .. stage, now)",
        "'broken', '0', 'taken_up', 0)",
        "tests/test_contract.py::test_a_rewind_begins_the_times_of_its_stages_anew",
    ),
    Mutant(
        "a member that has died is attempted again",
        "What is told of the next attempt is about members that are failing.",
        "else call('ZREM', here.due, member) end",
        "end",
        "tests/test_contract.py::test_nothing_is_due_of_a_member_that_is_not_failing_any_more",
    ),
    Mutant(
        "the next attempt is one that has come already",
        "When the first failing job is attempted again is told of those whose attempt is still to come.",
        "call('ZRANGEBYSCORE', here.due, now, '+inf', 'LIMIT', 0, 1)[1]",
        "call('ZRANGEBYSCORE', here.due, 0, '+inf', 'LIMIT', 0, 1)[1]",
        "tests/test_contract.py::test_it_is_told_when_a_failing_member_is_attempted_again",
    ),
    Mutant(
        "what a cancelled run had due stays due",
        "What a retry sends again isn't said to be attempted at another time.",
        "if ends_era then call('UNLINK', here.due) end",
        "",
        "tests/test_contract.py::test_nothing_is_due_in_a_run_at_rest_or_of_what_a_retry_sends_again",
    ),
    Mutant(
        "how far a duty is done is forgotten",
        "A member whose message was sent is not shown as unsent.",
        "{math.max(tonumber(from), cursor), tonumber(to)}",
        "{tonumber(from), tonumber(to)}",
        "tests/test_contract.py::test_what_is_not_sent_yet_is_shown_as_unsent",
        file="lib/unsent",
    ),
    Mutant(
        "all members of a mapped stage have the first item",
        "A member's arguments have its own item.",
        "call('LRANGE', here.items, member, member)[1]",
        "call('LRANGE', here.items, 0, 0)[1]",
        "tests/test_members.py::test_arguments_have_what_is_mapped_or_piped",
    ),
    Mutant(
        "there are no more dead members than a page has",
        "All dead members of a stage are on one of the pages.",
        "next = tonumber(members[most + 1] or -1)",
        "next = -1",
        "tests/test_contract.py::test_those_that_are_failing_or_dead_are_found_without_looking_at_others",
    ),
    Mutant(
        "tokens pile up",
        "A doorbell that nobody waits at keeps one token at most.",
        "if ringing == 0 then redis.call('RPUSH', doorbell, '1') end",
        "redis.call('RPUSH', doorbell, '1')",
        "tests/test_doorbells.py::test_a_token_that_nobody_takes_goes_by_itself",
    ),
    Mutant(
        "a token stays for ever",
        "A token that nobody takes goes by itself.",
        "redis.call('PEXPIRE', doorbell, lingers)\n",
        "",
        "tests/test_doorbells.py::test_a_token_that_nobody_takes_goes_by_itself",
    ),
)

PYTHON = (
    # Whether a job is wanted
    python(
        "a run is found a lease after its producer's death, however short its deadline",
        "A run is in the index in time for its deadline before it is sealed.",
        "return max(min(caller.lease_ms, soonest or caller.lease_ms), LEAST_LEASE)",
        "return max(caller.lease_ms, LEAST_LEASE)",
        "tests/test_contract.py::test_a_run_is_in_the_index_in_time_for_its_deadline_though_its_producer_dies",
    ),
    python(
        "a run that is quiet is looked at late",
        "A deadline is kept though no message comes.",
        "self.look_again(run_id, min(quiet, by or quiet), instead=instead)",
        "self.look_again(run_id, quiet, instead=instead)",
        "tests/test_deadlines.py::test_a_deadline_is_kept_though_no_worker_listens_to_the_queue",
    ),
    python(
        "what others have put down is put off",
        "Who puts off a look at a quiet run leaves what others have put down since.",
        "self.look_again(run_id, min(quiet, by or quiet), instead=instead)",
        "self.look_again(run_id, min(quiet, by or quiet), known=True)",
        "tests/test_sweeping.py::test_who_puts_off_a_look_leaves_what_others_have_put_down",
    ),
    python(
        "what is queued is let run for a second",
        "What is queued when a run fails fast, or has enough, or is late, is skipped at once.",
        "return self.fail_fast or self.exact or self.deadline is not None",
        "return False",
        "tests/test_terms.py::test_what_is_queued_when_a_run_fails_fast_is_skipped",
    ),
    python(
        "a skipped member's success is written down",
        "The results of a stage that was complete with enough of them stay as they are.",
        "return self.enough is not None",
        "return False",
        "tests/test_terms.py::test_a_late_success_is_in_no_result",
    ),
    python(
        "a guarded stage is remembered for ever",
        "Queued jobs of a cancelled run are skipped, within a second or so.",
        "return time.monotonic() - self.wanted.get(key, -REMEMBERED) < REMEMBERED",
        "return key in self.wanted",
        "tests/test_life.py::test_cancelling_skips_what_is_queued_drops_what_runs_and_releases_nothing",
    ),
    python(
        "a copy that we have sent ourselves is not guarded",
        "What is sent again, because it may not have arrived, isn't executed twice once it has succeeded.",
        "if job.attempt or job.tag.repeated or job.tag.leads or",
        "if job.attempt or job.tag.leads or",
        "tests/test_cost.py::test_what_may_be_a_second_copy_asks",
    ),
    python(
        "a later attempt is not guarded",
        "A retry that Dramatiq has sent isn't executed if another copy of its job has succeeded meanwhile.",
        "if job.attempt or job.tag.repeated or job.tag.leads or",
        "if job.tag.repeated or job.tag.leads or",
        "tests/test_cost.py::test_what_may_be_a_second_copy_asks",
    ),
    python(
        "an old message is not guarded",
        "A message that may have been redelivered isn't executed without a look at its member.",
        "return bool(0 <= age < self.broker.heartbeat_timeout / 2)",
        "return True",
        "tests/test_cost.py::test_what_may_be_a_second_copy_asks",
    ),
    python(
        "somebody else's copy is not guarded",
        "A copy of a finished job is skipped however early it comes.",
        'if not str(message.options.get("redis_message_id")).startswith(f"{message.message_id}{OWN}"):',
        "if False:",
        "tests/test_identity.py::test_a_copy_of_a_finished_job_is_skipped_however_early_it_comes",
    ),
    # How an attempt ends
    python(
        "what can't be recorded is acked",
        "A message isn't acked before its end is recorded, whatever error there is.",
        "raise NotAcked(f\"message {message.message_id} isn't acked: its end isn't recorded: {error!r}\") from error",
        "return",
        "tests/test_errors_at_the_ack.py::test_nothing_but_what_keeps_the_message_leaves_the_hook_before_the_ack",
    ),
    python(
        "an attempt that only waits is failing",
        "An attempt that ends in Retry, RateLimitExceeded or Shutdown isn't failing.",
        "polite = isinstance(job.error, Retry | RateLimitExceeded | Shutdown)",
        "polite = False",
        "tests/test_exits.py",
    ),
    python(
        "what a job has nested is forgotten",
        "A stage waits for the runs that its jobs have nested.",
        'nested = job.wrapper if ending == "succeeded" else b""',
        'nested = b""',
        "tests/test_nesting.py::test_a_stage_waits_for_what_its_job_nests",
    ),
    python(
        "the attempt that Retries has sent is sent again",
        "An attempt that Dramatiq has sent isn't sent a second time.",
        "attempt.sent_on(delay or 0)",
        "pass",
        "tests/test_exits.py",
    ),
    python(
        "a message that was put back has succeeded",
        "A job whose message another middleware puts back and skips has not succeeded: it works later.",
        "elif job is not None and job.exit is None and job.retry_sent:",
        "elif False:",
        "tests/test_exits.py",
    ),
    python(
        "what a middleware before ours puts back has succeeded",
        "That holds wherever the middleware stands; and a message that has met an error there is acked, too.",
        "enqueued.set((message, delay))",
        "pass",
        "tests/test_exits.py",
    ),
    python(
        "a run without stages can't be deleted",
        "A run without stages is deleted, and makes room, like any other.",
        'head.get(f"s{stage}", "0 0 -"), int(head.get("sent", 0))',
        'head[f"s{stage}"], int(head.get("sent", 0))',
        "tests/test_again.py::test_a_run_without_stages_makes_room_like_any_other",
    ),
    python(
        "a child that is there is called gone",
        "A nested run of which the store has forgotten a stage, by a failover, is no dead member of its parent.",
        "if job.engine.backend.generation(job.tag.run_id) != job.tag.generation:",
        "if True:",
        "tests/test_identity.py::test_a_child_whose_store_has_forgotten_a_stage_is_not_called_gone",
    ),
    python(
        "an application with a new name leaves its runs",
        "Workers of an application that has been given another name finish what it has begun, and wait for nothing.",
        "name in PRIVATE and not (generation and name in GIVEN)",
        "name in PRIVATE",
        "tests/test_identity.py::test_an_application_with_a_new_name_finishes_what_it_has_begun",
    ),
    python(
        "what a job nests is of the first epoch",
        "A cancel that is still under way when its run has been retried leaves alone what a job nests after that.",
        "members.place(duty.member, duty.epoch)",
        "members.place(duty.member, 0)",
        "tests/test_nesting.py::test_a_late_cancel_of_before_a_retry_leaves_what_a_job_nests_alone",
    ),
    python(
        "an attempt that Retries couldn't send is lost",
        "An attempt that Dramatiq owed and couldn't send, for the broker was away, is sent all the same.",
        "if not job.retry_sent:",
        "if False:",
        "tests/test_recovery.py::test_the_attempt_that_retries_could_not_send_still_comes",
    ),
    python(
        "a refused result is waited for",
        "A result that the store refuses makes its job dead: nobody waits for what waiting doesn't cure.",
        'if ending != "succeeded":\n                raise',
        "if True:\n                raise",
        "tests/test_large_payloads.py::test_a_single_job_s_result_is_refused_whether_or_not_the_next_message_goes_with_it",
    ),
    python(
        "a leader keeps its share",
        "All members of a wide stage are sent by its first jobs.",
        'if word == "go" and job.tag.leads:',
        "if False:",
        "tests/test_limit.py::test_a_leader_sends_its_share_before_it_works",
    ),
    # Hand-over
    python(
        "a stage is confirmed before its nested runs are started",
        "What is owed is confirmed only when it is done.",
        "if end == duty.end and not (starting or duty.leaders):",
        "if end == duty.end:",
        "tests/test_nesting.py::test_a_nested_clutch_is_a_member_like_any_other",
    ),
    python(
        "a sleeper goes on sending",
        "Who has lost the lease of a stage stops sending it.",
        'cursor=end) == "lost":\n            break',
        'cursor=end) == "never":\n            break',
        "tests/test_handover.py::test_a_sender_whose_lease_has_passed_on_stops_in_the_middle_of_its_stage",
    ),
    python(
        "what a job's record owes is left to the sweeper",
        "The next stage is sent by whoever completes the one before, before its message is acked.",
        "hand_over(engine, run_id, reply, caller)\n        if touch or job.due:",
        "if touch or job.due:",
        "tests/test_onward.py::test_messages_are_the_same_as_where_runs_have_a_server_of_their_own",
    ),
    python(
        "a value that is to be given by name is appended",
        "A value comes as the keyword argument that `pipe` or `into` names.",
        "if into else {",
        "if False else {",
        "tests/test_nesting.py::test_pipe_gives_the_value_by_a_name_instead_of_appending_it",
    ),
    python(
        "a run_ttl of seconds is taken",
        "A `run_ttl` of less than a minute is refused.",
        "if number < LEAST_RUN_TTL:",
        "if False:",
        "tests/test_builder.py::test_a_run_ttl_that_was_meant_as_seconds_is_an_error_that_says_so",
    ),
    python(
        "a piped value isn't counted",
        "Too many or too few arguments, counted with what is piped or mapped, are an error when a step is added.",
        "count += extra.appended",
        "count += 0",
        "tests/test_checks.py",
    ),
    python(
        "an actor's home is forgotten",
        "An actor of another broker is refused.",
        "home = None if self.home is None else self.home()",
        "home = broker",
        "tests/test_checks.py",
    ),
    python(
        "what was sent is sent again",
        "A message that was sent already is refused.",
        "if not message.options.keys().isdisjoint(MARKS_OF_SENT):",
        "if False:",
        "tests/test_checks.py",
    ),
    python(
        "an address is taken for a backend",
        "What is no backend is refused at once.",
        "if backend is None or isinstance(backend, ClutchBackend):",
        "if True:",
        "tests/test_builder.py::test_what_is_no_backend_is_an_error_that_says_how_one_is_made",
    ),
    python(
        "a job waits for a run that it is nested in",
        "A job that would wait for its own run, or a relative, is told at once.",
        "return own == run_id or _is_nested(own, run_id) or _is_nested(run_id, own)",
        "return own == run_id",
        "tests/test_nesting.py::test_a_job_that_would_wait_for_its_own_run_or_a_relative_is_told_at_once",
    ),
    python(
        "what a stage has allowed is the cause",
        "What a run in a test has failed of is no failure that a stage has allowed.",
        "reasons = error.failures",
        "reasons = run.status().failures",
        "tests/test_testing.py::test_what_a_stage_has_allowed_is_not_the_cause",
    ),
    python(
        "a job can write lines of its own into the log",
        "Whatever comes from a job is quoted in the log of runs, without line breaks.",
        "return repr(beginning_of(text, MOST_SHOWN))",
        "return str(beginning_of(text, MOST_SHOWN))",
        "tests/test_news.py::test_whatever_comes_from_a_job_stays_on_its_line",
    ),
    python(
        "what a dead worker had of a delay queue waits",
        "What a dead worker leaves unacked comes again within a heartbeat timeout and a sweep, also on an idle system.",
        "queues = sorted(broker.get_declared_queues() | broker.get_declared_delay_queues())",
        "queues = sorted(broker.get_declared_queues())",
        "tests/test_redelivery.py::test_what_a_silent_worker_has_fetched_comes_again_of_delay_queues_too",
    ),
    python(
        "a look for dead workers that fails isn't repeated",
        "An outage while a sweeper looks for dead workers only puts off what they have left.",
        "for queue in self._left_by(silent, queues):",
        "self._seen = queues, silent_at\n        for queue in self._left_by(silent, queues):",
        "tests/test_redelivery.py::test_a_look_that_fails_is_repeated_by_the_next_one",
    ),
    python(
        "a later stage's message is as old as its run",
        "A message of a later stage gets a fresh timestamp, for AgeLimit looks at it.",
        "message_timestamp=max(current_millis(), line.start_at or 0, spec.start_at or 0),",
        "message_timestamp=message.message_timestamp,",
        "tests/test_result.py::test_a_message_of_a_later_stage_has_a_fresh_timestamp",
        file="handover/members",
    ),
    python(
        "the delay of a run is forgotten",
        "run(delay=…) holds the first jobs back.",
        "return max(int(own) + waits, rest, 0) or None",
        "return int(own) + waits or None",
        "tests/test_result.py::test_the_delay_of_a_run_holds_its_first_job_back",
    ),
    python(
        "a callback that can't be sent stops the others",
        "Of several callbacks of an event each is sent, also if one of them can't be.",
        "            first = first or error",
        "            raise",
        "tests/test_callbacks.py::test_a_callback_that_cannot_be_sent_keeps_no_other_from_being_sent",
    ),
    python(
        "the middleware's callbacks take the place of a clutch's own",
        "What a clutch sets for an event goes before what the middleware sets, also if it sets none.",
        "        if kept and event not in mine:",
        "        if kept:",
        "tests/test_callback_options.py::test_the_middlewares_callbacks_are_those_of_runs_whose_clutches_set_none",
    ),
    python(
        "the middleware's callbacks make another clutch",
        "A setting of the middleware doesn't make another clutch of the one that has been run under an id.",
        'fingerprint.of(spec, lines) if claimed else ""',
        'fingerprint.of(stored, lines) if claimed else ""',
        "tests/test_callback_options.py::"
        "test_a_setting_of_the_middleware_makes_no_other_clutch_of_one_under_a_claimed_id",
    ),
    python(
        "a failure that isn't allowed is told as allowed",
        "An alarm says whether its stage allows the failures.",
        "<= line.most_dead and status.error is None",
        "<= line.most_dead",
        "tests/test_callback_options.py::test_a_run_that_fails_of_an_error_of_its_own_is_not_allowed_to",
    ),
    python(
        "a coroutine's call is made on the loop",
        "Nothing that a coroutine awaits blocks its event loop.",
        "    return await asyncio.wrap_future(_threads.pool.submit(copy_context().run, call))",
        "    return call()",
        "tests/test_asynchronous.py::test_the_loop_ticks_while_the_store_is_paused",
    ),
    python(
        "a coroutine's call has no context",
        "What is called for a coroutine has the coroutine's context variables.",
        "_threads.pool.submit(copy_context().run, call)",
        "_threads.pool.submit(call)",
        "tests/test_asynchronous.py::test_the_callers_context_goes_along",
    ),
    python(
        "a job's thread is told that there is nothing",
        "A thread that a job has started without its context gets an error, and no silent [].",
        "    if may_be_a_jobs():",
        "    if False:",
        "tests/test_threads_of_jobs.py::test_a_thread_without_a_context_is_told_how_it_gets_the_jobs",
    ),
    python(
        "an actor that is called directly is taken for a job's thread",
        "Actors that are called directly, outside of workers, see an empty list of previous results.",
        "return any(boot.at_work and thread not in boot.before for _, boot in boots)",
        "return any(boot.at_work for _, boot in boots)",
        "tests/test_threads_of_jobs.py::test_actors_that_are_called_directly_see_nothing_before_them",
    ),
    python(
        "a first stage that sees nothing is let run",
        "A first stage that pipes or maps, and has nothing to see, is an error at run().",
        "sees=SOMETHING if index or stage.mapped else sees,",
        "sees=SOMETHING,",
        "tests/test_nesting.py::test_a_first_stage_that_has_nothing_to_see_is_an_error_at_run_and_at_nest",
    ),
    python(
        "a first stage that maps copies what it maps over",
        "A first stage that maps over the results of a parallel stage reads them where they are.",
        "return (*found, line) if line.many else None",
        "return (*found, line) if line.many and self.stage else None",
        "tests/test_nesting.py::test_a_first_stage_that_maps_over_the_results_of_many_copies_none_of_them",
    ),
    python(
        "a nested run does not wait for its stage",
        "The nested runs of a stage begin when its wait is over.",
        "times = (plan.spec.start_at, self.line.start_at, self.spec.start_at)",
        "times = (plan.spec.start_at,)",
        "tests/test_waits.py::test_a_stage_begins_that_long_after_the_one_before_is_complete",
    ),
    python(
        "a nested run has no context but its own",
        "A nested run has the context of the run around it below its own.",
        "self.context.overlaid(plan.spec.context)",
        "Context().overlaid(plan.spec.context)",
        "tests/test_context.py::test_a_nested_clutchs_context_is_laid_over_the_one_around_it_key_by_key",
    ),
    python(
        "a callback carries nothing",
        "What the messages of a run carry, its callbacks carry, too.",
        "return laid(stamped, carried), ",
        "return stamped, ",
        "tests/test_carrying.py::test_what_a_middleware_puts_into_messages_reaches_all_messages_of_the_run",
    ),
    python(
        "a nested run carries nothing of its parent",
        "What the messages of a run carry, those of its nested runs carry, too.",
        "return nested.carried or self.spec.carried",
        "return nested.carried",
        "tests/test_carrying.py::test_what_a_middleware_puts_into_messages_reaches_all_messages_of_the_run",
    ),
    python(
        "a hook has the last word on what is carried",
        "What a before_enqueue makes of a carried option isn't sent.",
        "self.options.update(self.carried)  # so that",
        "pass  # so that",
        "tests/test_carrying.py::test_a_middleware_sees_what_is_carried_and_what_it_makes_of_it_is_not_sent",
    ),
    python(
        "the next attempt carries what a hook says",
        "What a message carries, its next attempt carries, too.",
        "        carrying.keep(message)\n        carrying.begin(message)",
        "        carrying.begin(message)",
        "tests/test_carrying.py::test_what_a_middleware_puts_into_messages_reaches_all_messages_of_the_run",
    ),
    python(
        "what a job nests is traced beside it",
        "The span of a run that a job has nested is a child of the job's.",
        "carried.caller if by_a_job else stage_span(",
        "stage_span(",
        "tests/test_tracing.py::test_a_run_is_one_trace_however_it_is_made",
        "tracing/runs",
    ),
    python(
        "a run's span forgets where the run was started",
        "The span of a run is a child of the one that was current where it was started.",
        "run if again else traced.parent,",
        "run if again else 0,",
        "tests/test_tracing.py::test_a_run_is_one_trace_however_it_is_made",
        "tracing/observer",
    ),
    python(
        "what a retry does has the span that is over",
        "What follows after a retry is in a span of its own, inside the first one.",
        "0 if again else run,",
        "run,",
        "tests/test_tracing.py::test_a_run_that_fails_says_why_and_what_a_retry_does_is_inside_it",
        "tracing/observer",
    ),
    python(
        "a job finds the context of whoever has its run's id",
        "A job finds the context of its own run.",
        "is_there = whose is not None and (not generation or whose == generation.encode())",
        "is_there = whose is not None",
        "contract",
    ),
    python(
        "other args are the same run",
        "Args are part of what a run_id stands for.",
        "self._rows.digest() + args).digest()",
        "self._rows.digest()).digest()",
        "tests/test_context.py::test_args_are_part_of_what_a_run_id_stands_for",
    ),
    python(
        "what is being started escapes a cancel",
        "Cancelling a run cancels its nested runs, also one that was just being started.",
        "reply = engine.backend.cancel(place.child_id, caller, bury=duty.epoch, generation=place.child_generation)",
        "reply = engine.backend.cancel(place.child_id, caller, generation=place.child_generation)",
        "tests/test_handover.py::test_a_nested_run_that_is_started_after_its_parent_was_cancelled_does_not_begin",
    ),
    python(
        "a nested run that is done and not known works on",
        "A nested run whose result its parent couldn't store is dead again at once when that is retried.",
        'if reply.word == "unknown":\n        (found,)',
        'if reply.word == "never":\n        (found,)',
        "tests/test_nesting.py::test_a_nested_run_whose_result_could_not_be_stored_is_dead_again_when_it_is_retried",
    ),
    python(
        "a nested run that is gone stays gone",
        "A nested run that is gone begins anew with a retry of its parent.",
        'if reply.word == "unknown":\n        reply = engine.create(child, ',
        'if reply.word == "never":\n        reply = engine.create(child, ',
        "tests/test_nesting.py::test_a_nested_run_that_is_gone_is_a_dead_member_and_comes_back_with_a_retry",
    ),
    python(
        "a long hand-over loses what it holds",
        "Who does many duties, or slow ones, keeps them: they aren't done a second time by a sweeper.",
        "if time.monotonic() - self.renewed < self.engine.lease_ms / 3_000:",
        "if True:",
        "tests/test_handover.py::test_a_hand_over_that_takes_long_renews_the_lease_of_what_it_holds",
    ),
    python(
        "a sweep does the first hundred runs",
        "A sweep goes on until nothing is left of what was due.",
        "if not due or is_stopping():",
        "if True:",
        "tests/test_sweeping.py::test_a_sweep_goes_on_until_nothing_is_due",
    ),
    python(
        "a resumed run does again what has been done",
        "retry() of a cancelled run sends what hasn't succeeded, and nothing else.",
        "return stands is None",
        "return True",
        "tests/test_handover.py::test_a_retry_of_a_cancelled_run_sends_what_has_not_succeeded_and_nothing_else",
    ),
    python(
        "a nested run's result is what its job has returned",
        "If a job returns the handle of what it has nested, the nested result is the job's.",
        "if isinstance(spec.yields, int):",
        "if False:",
        "tests/test_nesting.py::test_returning_the_handle_makes_the_nested_result_the_jobs",
    ),
    # Memories, time, names
    python(
        "what comes next is taken from an earlier run",
        "What a process remembers of an earlier run under the same id is never sent in the present one.",
        "or duty.generation != record.tag.generation",
        "or False",
        "tests/test_onward.py::test_what_a_process_knows_of_an_earlier_run_of_the_same_id_is_not_sent",
    ),
    python(
        "a message leaves its queue's broker's hooks out",
        "Other middleware hears of every message that is sent.",
        "((one.message, one.delay) for one in ready if one.message is not None)",
        "()",
        "tests/test_onward.py::test_messages_are_the_same_as_where_runs_have_a_server_of_their_own",
    ),
    python(
        "who makes records waits for itself",
        "A message that is rejected while records are made stops nobody.",
        "        self._finishing.here.is_busy = True\n",
        "",
        "tests/test_deferring.py::test_a_message_that_is_rejected_while_records_are_made_stops_nobody",
    ),
    python(
        "a hook of the application isn't looked for",
        "Nothing is deferred if a hook of the application could notice.",
        "            or self._noticing\n",
        "",
        "tests/test_deferring.py::test_nothing_is_deferred_if_a_hook_of_the_application_could_notice",
    ),
    python(
        "a damaged run holds up all others",
        "The records of a damaged run hold up no others.",
        "            return [FAILED] * len(batch)\n",
        "            raise\n",
        "tests/test_deferring.py::test_the_records_of_a_damaged_run_hold_up_no_others",
    ),
    python(
        "nobody is told that records wait",
        "That records can't be made is logged, whether or not a thread waits for that.",
        "                    self._tell(error)\n",
        "                    pass\n",
        "tests/test_deferring.py::test_that_records_wait_is_logged",
    ),
    python(
        "a late record's consequences are waited for",
        "What follows from a late record keeps no other one waiting.",
        "                self._finishing.leave_to_others()\n        self",
        "                self._finishing.finish()\n        self",
        "tests/test_deferring.py::test_what_follows_from_a_late_record_keeps_no_other_waiting",
    ),
    python(
        "records wait for a job that may take long",
        "Records are made before a job of an actor that isn't known to be short.",
        "        self._closing.make_way(self._engines.get(broker), message)\n",
        "",
        "tests/test_deferring.py::test_records_are_made_before_a_job_that_may_take_long",
    ),
    # Messages that are sent as they are written
    python(
        "messages that a hook would see are sent as they are written",
        "Other middleware hears of every message that is sent, however wide its stage.",
        "return self._enqueues_as_ever and not (self._before or self._after)",
        "return self._enqueues_as_ever and not self._before",
        "tests/test_written.py::test_a_hook_sees_every_message",
    ),
    python(
        "leaders are sent as they are written",
        "Each leader's message says that it has a share to send.",
        "or start < sent.start + sent.leaders or",
        "or",
        "tests/test_written.py::test_a_wide_stage_is_written_but_for_its_leaders",
    ),
    python(
        "what a run carries isn't written",
        "All messages of a run have the options that it carries.",
        "if spec.queue or spec.carried or spec.start_at or line.start_at:",
        "if spec.queue or spec.start_at or line.start_at:",
        "tests/test_written.py::test_messages_that_are_sent_as_bytes_are_the_same",
    ),
    python(
        "the queue of a run isn't written",
        "The jobs of a run that has a queue go there.",
        "if spec.queue or spec.carried or spec.start_at or line.start_at:",
        "if spec.carried or spec.start_at or line.start_at:",
        "tests/test_written.py::test_messages_that_are_sent_as_bytes_are_the_same",
    ),
    python(
        "a delayed run begins at once",
        "The jobs of a run that has a delay work when that is over.",
        "if spec.queue or spec.carried or spec.start_at or line.start_at:",
        "if spec.queue or spec.carried or line.start_at:",
        "tests/test_written.py::test_messages_that_are_sent_as_bytes_are_the_same",
    ),
    python(
        "options of a message are left out",
        "A message keeps its own options.",
        "if found is None or not row.endswith(_ENDS) or",
        "if found is None or",
        "tests/test_written.py",
    ),
    python(
        "bytes of another encoder are taken for Dramatiq's own",
        "A message is sent in the encoding of the application.",
        "or type(get_encoder()) is not JSONEncoder:",
        "or False:",
        "tests/test_written.py::test_what_another_encoder_would_read_is_decoded",
    ),
    python(
        "the next job begins in the midst of what the one before has to do",
        "A message that is fetched with a job's record is given to the worker once the log has its line.",
        "self._desk.hold(offer, self._as_it_comes(ready))",
        "self._desk.take(offer, 1)",
        "tests/test_desk.py::test_the_next_job_is_given_to_the_worker_once_the_log_has_its_line",
    ),
    python(
        "a message that is held is forgotten",
        "A message that was fetched with a job's record is given to the worker, whatever happens next.",
        "        if message is None:\n            self.begin_next()\n",
        "",
        "tests/test_desk.py::test_a_message_that_is_held_is_given_to_the_worker_whatever_happens",
    ),
    python(
        "what may have been fetched is forgotten",
        "A message that was fetched in a step whose reply was lost is put back into its queue.",
        "self._astray.add({one.in_queue: one for offer in offers if offer for one in offer.missing()})",
        "pass",
        "tests/test_desk.py::test_what_was_fetched_without_the_sender_knowing_is_given_back",
    ),
    python(
        "what a consumer has is put back",
        "A message that a consumer has fetched isn't done twice, although the reply to what sent it was lost.",
        "elif self._has(one.queue, one.message_id) or self._has(one.queue, one.in_queue):",
        "elif False:",
        "tests/test_desk.py::test_what_a_consumer_has_fetched_stays_its_own_though_a_reply_was_lost",
    ),
    python(
        "a worker that stops takes more",
        "What the last jobs of a worker that stops cause is left to other workers.",
        "self._workers.remove(worker)",
        "pass",
        "tests/test_desk.py::test_a_worker_that_is_told_to_stop_takes_nothing_more",
    ),
    python(
        "a worker takes more than it has threads",
        "A worker that has no thread for a message leaves it to others.",
        "threads = worker.worker_threads - busy",
        "threads = worker.worker_threads",
        "tests/test_desk.py::test_a_worker_that_has_no_thread_for_a_message_leaves_it_to_others",
    ),
    python(
        "what stands behind others waits for the consumer",
        "A message that others stand before is fetched after them, as soon as a thread has nothing to do.",
        "is_left = count < len(offer.messages)",
        "is_left = False",
        "tests/test_desk.py::test_what_waits_in_the_queue_comes_first",
    ),
    python(
        "the rest of a wide stage waits for the consumer",
        "A stage wider than its worker is fetched as soon as a thread has nothing to do.",
        "                self._left.add(queue)",
        "                pass",
        "tests/test_desk.py::test_a_stage_that_is_wider_than_the_worker_is_fetched_bit_by_bit",
    ),
    python(
        "a worker fetches more than its prefetch",
        "A worker never has more messages than Dramatiq's prefetch lets it have.",
        "        place = consumer.prefetch + acks - has",
        "        place = consumer.prefetch",
        "tests/test_bunches.py::test_no_more_is_fetched_than_there_is_place_for",
    ),
    python(
        "a consumer takes what its worker's threads are about to fetch",
        "The members of a wide stage come in steps that record others, and not in round trips of their own.",
        "        return has >= max(may_have // 2, 1) and time.monotonic() - told < JUST",
        "        return False",
        "tests/test_desk.py::test_a_consumer_leaves_to_its_worker_s_threads_what_they_fetch",
    ),
    python(
        "no doorbell is rung",
        "A worker that has nothing to do begins at once with what a `run()` elsewhere sends.",
        "left = Counter(queue for queue, _, _ in at_once) - ",
        "left = Counter[str]() - ",
        "tests/test_doorbells.py::test_the_first_job_of_a_run_begins_though_no_consumer_looks",
    ),
    python(
        "no doorbell is rung for the next job",
        "A job whose queue another worker listens on begins at once when the one before it has ended.",
        "                self._doorbells.ring([ready[0].queue_name])\n",
        "",
        "tests/test_doorbells.py::test_a_job_in_the_queue_of_another_worker_follows_at_once",
    ),
    python(
        "a token wakes one worker only",
        "A wide stage has all workers at work at once that have threads for it.",
        "queue not in (None, listening.own) and not self._answer(worker, queue, listening)",
        "queue not in (None, listening.own) and self._answer(worker, queue, listening) and False",
        "tests/test_doorbells.py::test_each_worker_wakes_the_next_one_if_it_leaves_something",
    ),
    python(
        "a worker without a thread takes tokens",
        "A worker that can't begin with anything leaves the tokens to others.",
        "wanted = [queue for queue in queues if self._desk.has_place(worker, queue)]",
        "wanted = queues",
        "tests/test_doorbells.py::test_a_worker_takes_no_more_than_it_may_prefetch",
    ),
    python(
        "a small prefetch is exceeded for a token",
        "A worker that may prefetch no more than it has threads for has never more.",
        "return room is not None and room.consumer.prefetch > worker.worker_threads",
        "return room is not None",
        "tests/test_doorbells.py::test_a_prefetch_that_only_the_consumer_can_keep_to_is_left_to_it",
    ),
    python(
        "scripts are put together while jobs wait",
        "The first jobs of a worker don't wait until scripts are put together.",
        "        for name in AT_WORK:",
        "        for name in ():",
        "tests/test_scripts.py::test_what_a_worker_calls_is_put_together_before_its_first_job",
    ),
    python(
        "what is fetched for a worker that stops is lost",
        "A message that is fetched while a worker stops is put back into its queue.",
        "            room.consumer.requeue(held)\n",
        "            pass\n",
        "tests/test_doorbells.py::test_what_is_fetched_while_a_worker_stops_is_put_back",
    ),
    python(
        "a worker that stops waits for the server",
        "A worker that is told to stop stops at once, also while the server is away.",
        "threading.Thread(target=self.ring, args=([listening.own],), name=NAME, daemon=True).start()",
        "self.ring([listening.own])",
        "tests/test_doorbells.py::test_a_worker_that_stops_does_not_wait_for_the_server",
    ),
    python(
        "what stands behind other messages isn't rung for",
        "A job that is sent behind messages of others begins at once if its worker has another thread for it.",
        "                self._doorbells.ring(others)\n",
        "                pass\n",
        "tests/test_doorbells.py::test_what_stands_behind_other_messages_begins_at_once",
    ),
    python(
        "who may not ring isn't told",
        "It is told once if the server doesn't allow what wakes idle workers.",
        "            self._doorbells.heed(answers[len(along) + len(offers) :])\n",
        "",
        "tests/test_doorbells.py::test_who_may_not_ring_says_so_once",
    ),
    python(
        "a connection that is cut now and then is given up",
        "A worker goes on waiting for tokens where the network cuts quiet connections.",
        "pause = PAUSE if time.monotonic() - began > PAUSE else pause",
        "pass",
        "tests/test_doorbells.py::test_a_worker_whose_connection_is_cut_again_and_again_waits_each_time",
    ),
    python(
        "a worker that stops keeps a token",
        "A token that comes while a worker stops is given to another one.",
        "        if listening.stopping.is_set():\n            return False\n",
        "        if listening.stopping.is_set():\n            return True\n",
        "tests/test_doorbells.py::test_a_token_that_comes_while_a_worker_stops_is_given_back",
    ),
    python(
        "a worker that stops goes on waiting",
        "A worker that has stopped waits for no token any more.",
        "threading.Thread(target=self.ring, args=([listening.own],), name=NAME, daemon=True).start()",
        "pass",
        "tests/test_doorbells.py::test_a_worker_that_stops_waits_no_more_and_leaves_what_came_to_others",
    ),
    python(
        "a hook of a middleware that is added later isn't known",
        "Other middleware hears of every message that is sent, whenever it was added.",
        "if self._seen != self._broker.middleware:",
        "if not self._seen:",
        "tests/test_written.py::test_a_hook_of_a_middleware_that_is_added_later_sees_every_message",
    ),
    python(
        "a job gets what a hook has put into its message as it was put in",
        "A job's message is what its worker reads, however it comes there.",
        "type(get_encoder()) is JSONEncoder and not (self._before or self._after)",
        "True",
        "tests/test_neighbours.py::test_a_job_in_series_gets_its_message_as_it_was_sent",
    ),
    python(
        "a fetched message has its own fields only",
        "A middleware may put another message into the proxy that it is given, as with Dramatiq's own.",
        "vars(self).update(vars(message), _message=message)",
        "vars(self).update({**vars(message), **vars(self)}, _message=message)",
        "tests/test_neighbours.py::test_a_fetched_message_is_as_dramatiqs_own",
    ),
    python(
        "a bunch that may have come is forgotten",
        "Messages that were fetched with a record whose reply was lost are put back into their queue.",
        "self._astray.add({one: Missing(bunch.queue, one, one.partition(OWN)[0]) for one in missing})",
        "pass",
        "tests/test_desk.py::test_a_bunch_whose_reply_is_lost_is_put_back",
    ),
    python(
        "each record that is deferred is made by itself",
        "Short jobs of a wide stage take fewer round trips than there are jobs.",
        "len(self._deferred) >= most_for(oldest.consumer)",
        "True",
        "tests/test_deferring.py::test_short_jobs_are_recorded_many_in_a_call",
    ),
    python(
        "a worker that has nothing to do leaves records behind",
        "Who joins a worker finds everything recorded that has ended, and its messages acked.",
        "return worker is None or not worker.work_queue.queue",
        "return worker is None",
        "tests/test_deferring.py::test_who_joins_a_worker_finds_everything_recorded_and_acked",
    ),
    python(
        "who joins a worker doesn't wait for late records",
        "Who joins a worker finds everything recorded, also if a thread of its own is about to record it.",
        "worker.work_queue.unfinished_tasks += 1",
        "worker.work_queue.unfinished_tasks += 0",
        "tests/test_deferring.py::test_who_joins_a_worker_waits_for_the_thread_that_makes_late_records",
    ),
    python(
        "a short job is recorded when long ones have ended",
        "A short job is recorded while long ones are at work in all threads.",
        "            with self._finishing.at_work_for(oldest.worker), self._desk.serving(oldest.worker):\n",
        "            return\n            if True:\n",
        "tests/test_deferring.py::test_a_record_is_made_while_long_jobs_are_at_work_in_all_threads",
    ),
    python(
        "what is deferred makes room for more",
        "A worker never has more messages unacked than it may prefetch.",
        "consumer.queued_message_ids.add(in_queue)  # so that it doesn't fetch another one in its place",
        "pass",
        "tests/test_deferring.py::test_what_is_deferred_counts_as_prefetched",
    ),
    python(
        "the end of a stage is taken away before it is recorded",
        "A stage goes on though a thread is interrupted while it records its last member.",
        "                one.process()\n                del self.unfinished[one]\n",
        "                del self.unfinished[one]\n                one.process()\n",
        "tests/test_deferring.py::test_an_interrupt_loses_nothing",
    ),
    python(
        "a success that fills a batch is shown as a duplicate",
        "Observers are told of what has changed nothing, and of nothing else.",
        'if word == b"last":  # it has counted before',
        "if False:  #",
        "tests/test_deferring.py::test_a_stage_with_a_limit_goes_on",
    ),
    python(
        "a duplicate whose record was deferred is not shown",
        "Observers are told of each end of a job that changes nothing.",
        "    elif not job.deferred:\n        return\n",
        "    else:\n        return\n",
        "tests/test_deferring.py::test_a_message_that_is_delivered_twice_counts_once",
    ),
    python(
        "a child makes its parent's deferred records",
        "A forked child does nothing that its parent is about to do.",
        "        renew_in_children(self)\n",
        "",
        "tests/test_deferring.py::test_a_forked_child_makes_none_of_its_parent_s_records",
        file="backends/redis/deferring",
    ),
    python(
        "a large result is deferred",
        "A result that the server refuses has its message rejected.",
        "or len(record.payload) > SMALL",
        "or False",
        "tests/test_deferring.py::test_a_record_is_made_at_once_where_it_must_or_should_be",
    ),
    python(
        "nothing that is deferred is made after an ack",
        "What is deferred is recorded as soon as a thread of the worker has nothing else to do.",
        "        self._closing.catch_up(self._engines.get(broker), attempt)\n",
        "",
        "tests/test_deferring.py::test_who_joins_a_worker_finds_everything_recorded_and_acked",
    ),
    python(
        "nothing that is deferred is made after a rejection",
        "What is deferred is recorded as soon as a thread of the worker has nothing else to do.",
        "        self._closing.catch_up(self._engines.get(broker), message.__dict__.get(jobs.ATTRIBUTE))\n",
        "        pass\n",
        "tests/test_deferring.py::test_records_are_made_after_a_message_that_is_rejected",
    ),
    python(
        "a thread that ends leaves records behind",
        "A worker that has stopped has recorded every job that it has done.",
        "        self._closing.catch_up(self._engines.get(broker), None)\n",
        "        pass\n",
        "tests/test_deferring.py::test_a_worker_that_is_paused_and_stops_records_what_is_deferred",
    ),
    python(
        "a worker stops in the midst of a late record",
        "A worker that has stopped has nothing half done that would come again a minute later.",
        "            self._finishing.wait()\n",
        "            pass\n",
        "tests/test_deferring.py::test_a_worker_that_stops_waits_for_the_thread_that_makes_late_records",
    ),
    python(
        "any thread makes what is deferred",
        "A consumer's thread isn't kept from its messages by the records of jobs.",
        "if worker is None and not self._desk.was_workers:",
        "if False:",
        "tests/test_deferring.py::test_only_a_worker_s_own_threads_make_records",
    ),
    python(
        "nobody hears that records wait",
        "A worker that can't record what it has done logs that, and takes nothing more meanwhile.",
        "self._lives.patiently(attempt, engine.courier.catch_up)",
        "engine.courier.catch_up()",
        "tests/test_deferring.py::test_while_the_server_is_away_records_wait",
    ),
    python(
        "a message whose record is deferred is put back",
        "A job whose record is deferred isn't done once more, although the reply to what sent it was lost.",
        " or self._has(one.queue, one.in_queue):",
        ":",
        "tests/test_deferring.py::test_a_message_whose_record_is_deferred_is_not_astray",
    ),
    python(
        "a worker looks for what others fetch for it",
        "A worker never has more messages than Dramatiq's prefetch lets it have, whoever fetches them.",
        "        self.consumer.queued_message_ids.update(places)\n",
        "",
        "tests/test_desk.py::test_what_a_thread_looks_for_counts_as_prefetched_meanwhile",
    ),
    python(
        "a thread that makes late records takes the place of one",
        "A worker whose threads have nothing to do looks for more, whatever is recorded meanwhile.",
        "unfinished_tasks - self._occupied.count(worker)",
        "unfinished_tasks",
        "tests/test_deferring.py::test_a_worker_looks_for_more_while_a_late_record_is_made",
    ),
    python(
        "what was sent meanwhile is forgotten",
        "What is sent while a queue is looked at is looked for, too.",
        "            if self._marks.get(queue) is mark:",
        "            if True:",
        "tests/test_desk.py::test_what_is_sent_while_a_queue_is_looked_at_isn_t_forgotten",
    ),
    python(
        "the log says that a job's value is discarded",
        "Dramatiq's warning of a discarded value isn't logged for a job, whose value is its result.",
        "if UNTRUE not in str(message) or current_job() is None:",
        "if True:",
        "tests/test_news.py::test_dramatiqs_warning_of_a_value_that_is_discarded_is_dropped_for_jobs_and_for_nothing_else",
    ),
    python(
        "nobody hears that a value is discarded",
        "Dramatiq's warning of a discarded value is logged for messages that are of no clutch.",
        "if UNTRUE not in str(message) or current_job() is None:",
        "if UNTRUE not in str(message):",
        "tests/test_news.py::test_dramatiqs_warning_of_a_value_that_is_discarded_is_dropped_for_jobs_and_for_nothing_else",
    ),
    python(
        "a connection is kept for ever",
        "A connection is given back to its pool within a second, which looks after it.",
        "return connection, until if now < until else 0.0",
        "return connection, until",
        "tests/test_resp.py::test_a_connection_goes_back_to_its_pool_which_looks_at_it",
    ),
    python(
        "a connection of a small pool is kept",
        "A pool that is made for few connections has all of them.",
        "if pool.max_connections >= MANY else 0.0",
        "if True else 0.0",
        "tests/test_resp.py::test_a_small_pool_gets_each_connection_back_at_once",
    ),
    python(
        "a broken connection is kept",
        "A connection that has broken isn't used again.",
        "        until = 0.0\n        raise\n",
        "        raise\n",
        "tests/test_resp.py::test_a_connection_that_breaks_in_a_round_trip_is_not_kept",
    ),
    python(
        "what waits in a worker is forgotten with its consumer",
        "What has come to a worker isn't overtaken by what the worker fetches for itself.",
        "busy = max(busy, unfinished - (acked and not self._here.is_extra))",
        "",
        "tests/test_neighbours.py::test_what_a_consumer_has_fetched_before_it_was_restarted_still_goes_first",
    ),
    python(
        "a broker's own ways are passed by",
        "A broker of a class that fetches or acks in a way of its own does so with every message.",
        "if not _fetches_and_acks_as_ever(type(self._broker)):",
        "if False:",
        "tests/test_neighbours.py::test_a_broker_that_fetches_or_acks_in_a_way_of_its_own_does_so_with_every_message",
    ),
    python(
        "every job's message is acked in a round trip of its own",
        "A job costs no round trip for its ack: the message goes with the record.",
        "return None if acked == in_queue else",
        "return None if False else",
        "tests/test_desk.py::test_the_message_of_a_job_is_acked_with_its_record",
    ),
    python(
        "a forked child remembers what its parent did",
        "A forked child asks for itself what its parent may know.",
        "bounded = (self.touched, self.wanted, self.copied, self.ahead, self.left, self.unlisted)",
        "bounded = (self.touched, self.copied, self.ahead, self.left, self.unlisted)",
        "tests/test_forks.py::test_what_a_process_remembers_is_not_its_child_s",
    ),
    python(
        "forked children make the same tokens",
        "A lease and the id of a copy are nobody else's.",
        "os.register_at_fork(after_in_child=_random.seed)",
        "pass",
        "tests/test_tokens.py::test_forked_children_make_other_tokens_than_their_parent_and_each_other",
    ),
    python(
        "a long job is no activity",
        "A run lives as long as one of its jobs works, however long that takes.",
        "for run_id in {one.run_id for one in list(self.remembered.at_work.values()) if one.since < since}:",
        "for run_id in set[str]():",
        "tests/test_times.py::test_a_job_that_works_for_longer_than_a_run_lives_succeeds_and_so_do_its_ancestors",
    ),
    python(
        "what a nested run waits for is nothing to its parents",
        "A nested run's activity, and what is delayed in it, is its ancestors'.",
        "self.backend.touch(run_id, self.caller(owners.TOUCH), due=due)\n        self.touch_ancestors(run_id, due=due)",
        "self.backend.touch(run_id, self.caller(owners.TOUCH), due=due)",
        "tests/test_times.py",
    ),
    python(
        "all members have one id",
        "The ids of a run's messages are derived, and differ.",
        'return derived_id(self.generation, f"{self.run_id}/{self.stage}.{member}/{actor}")',
        'return derived_id(self.generation, f"{self.run_id}/{self.stage}/{actor}")',
        "tests/test_identity.py::test_the_ids_of_jobs_and_callbacks_are_uuids_and_differ",
    ),
    python(
        "a run has the ids of an earlier one",
        "Two runs under one id have messages of different ids.",
        'return derived_id(self.generation, f"{self.run_id}/{self.stage}.{member}/{actor}")',
        'return derived_id("", f"{self.run_id}/{self.stage}.{member}/{actor}")',
        "tests/test_identity.py::test_two_runs_under_one_id_have_messages_of_different_ids",
    ),
    # The Redis store
    python(
        "two generations share their keys",
        "Nobody finds anything of another run that has had the same id.",
        'begin, end = f"{namespace}:{{{run_id}}}:", f":{generation}" if generation else ""',
        'begin, end = f"{namespace}:{{{run_id}}}:", ""',
        "contract",
    ),
    python(
        "the common way ends with the count",
        "A stage with a limit sends more members as places become free, in the common case too.",
        'return replace(self._record(record, caller), word="counts")',
        'return Reply("counts")',
        "contract",
    ),
    python(
        "whatever the server refuses is waited for",
        "A payload that the server refuses is an error at once.",
        'if refuses(error):\n            raise PayloadRefused(f"the state store',
        'if False:\n            raise PayloadRefused(f"the state store',
        "tests/test_large_payloads.py::test_a_server_s_own_word_is_a_refusal",
    ),
    # What users test with
    python(
        "a test's time runs by itself",
        "In a test no time passes unless the test says so.",
        "StubBackend(clock=Clock(at=current_millis()))",
        "StubBackend()",
        "tests/test_testing.py::test_time_stands_still_until_it_is_moved",
    ),
    python(
        "a test's delayed message comes at once",
        "In a test a delayed message waits until the time was moved so far.",
        "return next_due is not None and next_due <= self.backend.now()",
        "return next_due is not None",
        "tests/test_testing.py::test_time_stands_still_until_it_is_moved",
    ),
    python(
        "actors stay with a test's broker",
        "After a test the actors belong to the application's broker again.",
        "            actor.broker = known",
        "            pass",
        "tests/test_testing.py::test_the_actors_of_the_application_come_and_go_back",
    ),
    python(
        "an exception is a result in a test",
        "Where a test gives an exception as a previous result, the job finds a dead member.",
        'return Record(tag, 0, "dead", failure_details(result',
        'return Record(tag, 0, "succeeded", failure_details(result',
        "tests/test_testing.py::test_an_exception_stands_for_a_dead_member",
    ),
    python(
        "only the last pass is looked through",
        "Results of stages before those that are done again are found, however often that is done.",
        "return next((whose for bound, whose in _bounds(kept) if stage < bound), generation)",
        "return generation",
        "contract",
    ),
    python(
        "what the earlier pass has nested stays",
        "The nested runs of the stages that are done again are deleted.",
        "            delete_at(engine, place)\n            lease.renew()",
        "            lease.renew()",
        "tests/test_again.py::test_a_run_that_did_not_succeed_is_done_again_from_a_stage",
    ),
    python(
        "kept stages outlive a deleted run",
        "delete() deletes the results of all stages of a run that keeps them.",
        'if reply.word == "deleted" and stage:',
        "if False:",
        "contract",
    ),
    python(
        "another caller's run makes room, too",
        "Of several callers that replace a run at the same time one starts a run, and the others join it.",
        'first = first or (found.generation if found else "")',
        'first = found.generation if found else ""',
        "tests/test_again.py::test_callers_that_race_to_run_again_start_one_run",
    ),
    python(
        "a run at rest stays where it is to make room",
        "if_exists='restart' runs a clutch again whose run is at rest.",
        'if not (found.frees or if_exists in ("restart", "replace")):',
        'if not (found.frees or if_exists == "replace"):',
        "tests/test_again.py::test_a_run_whose_id_another_one_at_rest_has",
    ),
    python(
        "nested runs outlive a deleted run",
        "What is kept of nested runs is deleted with the run that they are nested in.",
        "_delete_nested(engine, run_id, generation)\n            word = ask(engine, run_id, generation).word",
        "word = ask(engine, run_id, generation).word",
        "tests/test_again.py::test_a_deleted_run_leaves_nothing_but_what_its_late_messages_are_known_by",
    ),
    python(
        "a callback that is dead has succeeded",
        "Of a callback that nobody attempts any more, it is told that it is dead.",
        'is_dead = message.failed or callback.exit == "raised"',
        "is_dead = False",
        "tests/test_callbacks.py::test_a_run_tells_when_its_callbacks_were_sent_and_what_came_of_them",
    ),
    python(
        "a late message takes what the present run owes",
        "A late message of a run that was replaced isn't given what the present run owes its own jobs.",
        "reply = engine.backend.owed(run_id, caller, generation=job.tag.generation)",
        "reply = engine.backend.owed(run_id, caller)",
        "tests/test_again.py::test_a_late_message_is_not_given_what_the_present_run_owes",
    ),
    python(
        "a page shows what the register says",
        "A page shows how its runs stand, whatever the register says.",
        "for run_id, glance in glances if filters.want(glance)",
        "for run_id, glance in glances",
        "tests/test_listing.py::test_what_the_register_has_not_heard_is_shown_and_put_right",
    ),
    python(
        "a text of the application's steers the terminal",
        "Nothing of the application's reaches a terminal unescaped when a run is followed.",
        'one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)',
        "one for one in text)",
        "tests/test_following.py::test_nothing_of_the_applications_reaches_the_terminal_unescaped",
        "terminal",
    ),
    python(
        "each who watches looks",
        "One look serves all who watch a run in a process.",
        "if is_asked or self._is_looking:",
        "if False:",
        "tests/test_watching.py::test_one_look_serves_all_who_watch_and_they_share_two_connections",
    ),
    python(
        "who begins to watch sees what others saw",
        "A watch begins with the status of the moment, though others watch already.",
        "self._next = self._lookout.next_number()",
        "self._next = 0",
        "tests/test_watching.py::test_who_begins_to_watch_sees_nothing_older",
    ),
    python(
        "a lost hint is missed for good",
        "If a hint is lost, a watch looks again after a second.",
        "rest < EARLY)",
        "False)",
        "tests/test_watching.py::test_it_is_looked_again_when_the_last_look_is_a_second_old",
    ),
    python(
        "a walk does what is not wanted any more",
        "A run that isn't as wanted any more when its turn comes is left alone.",
        "in look_at_found(self._engine, found) if self._wants(glance)]",
        "in look_at_found(self._engine, found)]",
        "tests/test_bulk.py::test_a_run_that_is_not_as_wanted_any_more_when_its_turn_comes_is_left_alone",
    ),
    python(
        "a walk goes on while the store is away",
        "Whoever goes on with a cursor passes over no run that was left out because the store was away.",
        "return outcomes, away",
        "return outcomes, None",
        "tests/test_bulk.py::test_while_the_store_is_away_a_walk_breaks_off_and_its_cursor_leaves_nobody_out",
    ),
    python(
        "everything is changed by accident",
        "A selection without a filter is changed only if it is said to be of everything.",
        "if not self._is_bounded:",
        "if False:",
        "tests/test_bulk.py::test_without_a_filter_runs_are_changed_only_if_everything_is_meant",
    ),
    python(
        "what the register could not be told is forgotten",
        "What the register couldn't be told is told by a sweeper.",
        "engine.remembered.unlisted[run_id] = True",
        "pass",
        "tests/test_listing.py::test_nobody_waits_for_the_register_and_a_sweeper_tells_it_later",
    ),
    python(
        "the status goes with the result",
        "The status of a run that has succeeded stays for the history_ttl.",
        'head["history"] = history_ttl',
        "pass",
        "tests/test_listing.py::test_the_status_of_a_run_outlives_its_result",
    ),
    # The store in memory, in which users' unit tests run
    python(
        "a key in memory outlives its time",
        "In a test without a server, whatever expires goes as it does on one.",
        "if self.expires.get(key, self.now + 1) > self.now:",
        "if True:",
        "tests/test_memory.py::test_a_key_goes_when_its_time_has_come",
    ),
    python(
        "time goes on while a script works in memory",
        "In a test without a server, a transition happens at one moment, as on a server.",
        "if self.expires.get(key, self.now + 1) > self.now:",
        "if self.expires.get(key, self.clock.now() + 1) > self.clock.now():",
        "tests/test_memory.py::test_time_stands_still_while_a_script_works",
    ),
    python(
        "a renamed key forgets in memory that it expires",
        "In a test without a server, every key has an expiry, also those of a cancelled run.",
        "    if at is not None:\n        keys.expires[new] = at",
        "    if at is None:\n        keys.expires[new] = 0",
        "tests/test_memory.py::test_a_command_does_what_the_servers_does",
        file="backends/memory/commands",
    ),
    python(
        "members with one score come in any order in memory",
        "In a test without a server, members come in the order in which a server gives them.",
        "sorted(scores, key=lambda pair: (pair[1], pair[0]))",
        "sorted(scores, key=lambda pair: pair[1])",
        "tests/test_memory.py::test_a_command_does_what_the_servers_does",
    ),
)

MUTANTS: tuple[Mutant, ...] = (*SCRIPTS, *PYTHON)


def mutant_named(name: str) -> Mutant:
    """Raises LookupError."""
    for mutant in MUTANTS:
        if mutant.name == name:
            return mutant
    raise LookupError(f"there is no mutant {name!r}; `python -m tests.mutants --list` has them all")


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: the test that has `killed` it, and after how many seconds; "" if none has. `trouble` is
    what kept the tests from being run."""

    mutant: Mutant
    killed: str
    seconds: float
    trouble: str = ""

    @property
    def is_good(self) -> bool:
        return bool(self.killed)

    def __str__(self) -> str:
        what = self.killed or self.trouble or f"SURVIVED {self.mutant.detector}"
        return f"{self.seconds:6.1f} s  {self.mutant.name}: {what}"


def try_out(mutant: Mutant) -> Verdict:
    """Run the tests of the mutant's detector on a library that has its fault, in a process of their own, up to the
    first one that fails. Raises LookupError if the fault's text isn't found."""
    mutant.place()
    tests = DETECTORS.get(mutant.detector, (mutant.detector,))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:randomly"]
    command += ["--tb=line", "--all", f"--timeout={TEST_LIMIT}", *tests]
    # Not what a pytest that runs this tells its own tests.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"CLUTCH_MUTANT": mutant.name, "PYTHONPATH": str(REPOSITORY)}
    began = time.monotonic()
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        output, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Verdict(mutant, "", time.monotonic() - began, f"no answer within {LIMIT} s")
    seconds = time.monotonic() - began
    if process.returncode == 0:
        return Verdict(mutant, "", seconds)
    failed = re.search(r"^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", output, re.MULTILINE)
    if process.returncode != 1 or failed is None:
        return Verdict(mutant, "", seconds, f"pytest can't tell (code {process.returncode}):\n{output[-2_000:]}")
    # On a machine that is too busy a test may take too long without any fault: so it is said.
    by_limit = " (by its time limit)" if "Failed: Timeout" in output else ""
    return Verdict(mutant, failed[1] + by_limit, seconds)


def row(verdict: Verdict) -> str:
    """A verdict as a row of the table in the README of the tests."""
    mutant = verdict.mutant
    path, _, test = verdict.killed.partition("::")
    limit = " (by its time limit)" if test.endswith(" (by its time limit)") else ""
    name = f"`{Path(path).stem}`: {test.partition('[')[0].replace('_', ' ').removeprefix('test ')}{limit}"
    cells = (mutant.name, mutant.guarantee, where(mutant), name if verdict.killed else NOBODY, f"{verdict.seconds:.0f}")
    return f"| {' | '.join(cells)} |"


def where(mutant: Mutant) -> str:
    """The file that has the fault, as the table names it."""
    return f"`{mutant.place().relative_to(LUA if mutant.language == 'lua' else FOLDER)}`"


def rows() -> dict[str, str]:
    """The rows of the table, by the names of the faults."""
    lines = README.read_text().partition(BEGIN)[2].partition(END)[0].splitlines()
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.count(" | ") == 4 and ". |" in line}


def write(verdicts: Sequence[Verdict]) -> None:
    """Put the rows of these verdicts into the table of the README, between its marks; other faults keep theirs."""
    before, begin, rest = README.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise LookupError(f"{README} has no marks {BEGIN} and {END}")
    known = rows() | {verdict.mutant.name: row(verdict) for verdict in verdicts}
    shown = [known[mutant.name] for mutant in MUTANTS if mutant.name in known]
    said = f"{sum(NOBODY not in one for one in shown)} of {len(MUTANTS)} planted one-line faults are noticed."
    table = "\n".join(("| fault | guarantee | where | noticed by | s |", "|---|---|---|---|---|", *shown))
    README.write_text(f"{before}{BEGIN}\n\n{said}\n\n{table}\n\n{END}{after}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Plant faults, and see who notices.")
    parser.add_argument("names", nargs="*", help="which; all by default")
    parser.add_argument("--sample", type=int, metavar="N", help="so many of them, at random")
    parser.add_argument("--new", action="store_true", help="those that have no row in tests/README.md")
    parser.add_argument("--write", action="store_true", help="put what comes of it into the table in tests/README.md")
    parser.add_argument("--list", action="store_true", help="name them, and run nothing")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default: %(default)s)")
    parser.add_argument("--detector", help="try this one, instead of each fault's own")
    given = parser.parse_args(arguments)
    chosen = [mutant_named(name) for name in given.names] or list(MUTANTS)
    if given.new:
        known = rows()
        chosen = [mutant for mutant in chosen if NOBODY in known.get(mutant.name, NOBODY)]
    if given.sample is not None:
        chosen = random.sample(chosen, min(given.sample, len(chosen)))
    if given.list:
        print(*(f"{mutant.name}: {mutant.guarantee}" for mutant in chosen), sep="\n")
        return 0
    if given.detector:
        chosen = [replace(mutant, detector=given.detector) for mutant in chosen]
    verdicts: list[Verdict] = []
    with ThreadPoolExecutor(given.jobs) as pool:
        for verdict in pool.map(try_out, chosen):
            print(verdict, flush=True)
            verdicts.append(verdict)
    unnoticed = [verdict.mutant.name for verdict in verdicts if not verdict.is_good]
    print(f"{len(verdicts) - len(unnoticed)} of {len(verdicts)} noticed", *unnoticed, sep="\n  ")
    if given.write:
        write(verdicts)
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
