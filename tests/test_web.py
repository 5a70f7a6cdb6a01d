"""The page of runs: what it shows, what it lets through, and what it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
import logging
import re
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import dramatiq
import httpx
import pytest
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker

from dramatiq_clutch import (
    CallbackStatus,
    Clutch,
    JobFailure,
    Member,
    MemberPage,
    Run,
    RunStatus,
    StageStatus,
    StateUnavailable,
    runs,
)
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.register import Enlisted, Keeping
from dramatiq_clutch.stored.entries import Turn
from dramatiq_clutch.web import app
from dramatiq_clutch.web import feeds as feeds_module
from dramatiq_clutch.web.feeds import Feeds, event
from dramatiq_clutch.web.guarding import is_same_origin
from dramatiq_clutch.web.hiding import HIDDEN, Hiding
from dramatiq_clutch.web.texts import asset, duration, environment, percent, waits_for
from dramatiq_clutch.web.timeline import LEAST, is_at_work, timeline
from dramatiq_clutch.web.views import (
    CALLBACKS,
    MEMBERS,
    MOST_NESTED,
    MOST_STAGES,
    MOST_UNFOLDED,
    RUNS,
    ListWish,
    RunView,
    RunWish,
    list_view,
    run_view,
)
from tests.support.awaiting import PATIENCE
from tests.support.jobs import Jobs
from tests.test_listing import cost_of

#: Texts that would do something if a page let them.
HOSTILE = [
    "<script>alert(1)</script>",
    "\"' onmouseover='alert(1)",
    "{{ 7 * 7 }} </bdi><b>",
    "\u202eevil\u202c \u2066",
    "a\r\n\r\ndata: {}\n\nevent: view",
    "x" * 10_000,
]

HERE = {"Origin": "http://page"}


class Browser:
    """Asks an application without a server."""

    def __init__(self, application: Any, base: str = "http://page") -> None:
        self.application, self.base = application, base

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None, **params: str) -> httpx.Response:
        async def go() -> httpx.Response:
            transport = httpx.ASGITransport(self.application)
            async with httpx.AsyncClient(transport=transport, base_url=self.base) as client:
                return await client.request(method, path, params=params or None, headers=headers)

        return asyncio.run(go())

    def get(self, path: str, **params: str) -> httpx.Response:
        return self.ask("GET", path, None, **params)

    def text(self, path: str, **params: str) -> str:
        answer = self.get(path, **params)
        assert answer.status_code == 200, answer.text
        return answer.text


@pytest.fixture
def idle(stub_broker: StubBroker) -> Any:
    """An actor that nobody works for."""

    @dramatiq.actor
    def idle(*args: Any) -> None:
        raise AssertionError

    return idle


@pytest.fixture
def page(stub_broker: StubBroker) -> Browser:
    return Browser(app(stub_broker))


@pytest.fixture
def acting(stub_broker: StubBroker) -> Browser:
    return Browser(app(stub_broker, actions=lambda scope: "ann"))


# What is shown


def test_a_list_without_runs_explains_itself(page: Browser) -> None:
    assert "There are no runs yet." in page.text("/")
    assert "No runs are as wanted." in page.text("/", state="failed")


def test_the_list_is_filtered_by_its_address(page: Browser, idle: Any) -> None:
    for name, tag in (("load", "north"), ("load", "south"), ("report", "north")):
        Clutch(name=name).then(idle.message()).run(run_id=f"{name}-{tag}", tags=[tag])
    Run("load-south").cancel()

    def shown(**wish: str) -> set[str]:
        return set(re.findall(r'data-key="([^"]*)"', page.text("/", **wish)))

    assert shown() == {"load-north", "load-south", "report-north"}
    assert shown(state="running") == {"load-north", "report-north"}
    assert shown(name="load") == {"load-north", "load-south"}
    assert shown(tag="north", name="load", since="1h") == {"load-north"}
    assert shown(state="cancelled", tag="north") == set()
    assert ">1</span></a>" in page.text(
        "/", state="failed"
    )  # one was cancelled, which the counts say whatever is shown


def test_older_runs_are_a_page_away(page: Browser, idle: Any) -> None:
    for number in range(RUNS + 3):
        Clutch().then(idle.message()).run(run_id=f"run-{number}")
    first = page.text("/")
    older = re.search(r'href="\./(\?cursor=[^"]*)">Older', first)
    assert first.count('<tr role="row" data-key') == RUNS
    assert older is not None
    second = page.text("/" + older[1])
    assert second.count('<tr role="row" data-key') == 3
    assert "Older" not in second
    assert "Newest" in second


@pytest.mark.parametrize(
    ("sought", "where"), [("run-1", "run?id=run-1"), ("load", "./?name=load"), ("north", "./?tag=north")]
)
def test_a_search_leads_to_what_it_finds(page: Browser, idle: Any, sought: str, where: str) -> None:
    Clutch(name="load").then(idle.message()).run(run_id="run-1", tags=["north"])
    answer = page.get("/", q=sought)
    assert (answer.status_code, answer.headers["location"]) == (303, where)


def test_a_search_that_finds_nothing_says_so(page: Browser) -> None:
    assert "<bdi>&lt;b&gt;</bdi>." in page.text("/", q="<b>")


def test_a_runs_page_says_what_it_waits_for_and_shows_its_stages_and_members(page: Browser, idle: Any) -> None:
    clutch = Clutch(name="nightly", context={"who": "ann"}).parallel([idle.message(n) for n in range(3)], name="load")
    run = clutch.then(idle.message("end")).run()
    shown = page.text("/run", id=run.run_id)
    assert "It waits for stage 0 (&#39;load&#39;, 1 of 2): 3 of 3 members not done." in shown
    assert "1 member to do" in shown
    assert "<bdi>idle</bdi>(<bdi>2</bdi>)" in shown
    assert "&#34;who&#34;: &#34;ann&#34;" in shown
    assert "<bdi>idle</bdi>(<bdi>&#39;end&#39;</bdi>)" in page.text("/run", id=run.run_id, stage="1")
    assert "No members are as wanted." in page.text("/run", id=run.run_id, state="dead")


def test_nested_runs_are_unfolded_and_lead_back(page: Browser, idle: Any) -> None:
    inner = Clutch(name="inner").then(Clutch(name="innermost").then(idle.message()))
    run = Clutch(name="outer").parallel([inner] * (MOST_NESTED + 1)).run(run_id="outer")
    shown = page.text("/run", id=run.run_id)
    assert shown.count(">inner</bdi>") == MOST_NESTED
    assert ">innermost</bdi>" in shown
    assert 'href="./?parent=outer">List them all' in shown
    assert page.text("/", parent="outer").count('<tr role="row" data-key') == MOST_NESTED + 1
    below = page.text("/run", id="outer~0.0~0.0")
    assert 'href="run?id=outer">root' in below
    assert 'href="run?id=outer~0.0">parent' in below


def test_what_is_not_unfolded_is_told(page: Browser, idle: Any) -> None:
    inner = Clutch().then(idle.message())
    Clutch().parallel([inner] * (MOST_UNFOLDED - 1)).run(run_id="few")
    Clutch().parallel([inner] * MOST_UNFOLDED).run(run_id="many")
    Clutch().then(Clutch().then(Clutch().then(Clutch().then(inner)))).run(run_id="deep")
    told = [run_id for run_id in ("few", "many", "deep") if "looked into" in page.text("/run", id=run_id)]
    assert told == ["many", "deep"]


def test_of_many_stages_those_around_the_one_that_is_looked_at_are_drawn(page: Browser, idle: Any) -> None:
    clutch = Clutch()
    for _ in range(MOST_STAGES * 3):
        clutch = clutch.then(idle)
    clutch.run(run_id="long")

    def drawn(**wish: str) -> tuple[int, int, list[str]]:
        shown = page.text("/run", id="long", **wish)
        stages = [int(index) for index in re.findall(r'class="index">(\d+)', shown)]
        assert len(stages) == MOST_STAGES
        return stages[0], stages[-1], re.findall(r'stage=(\d+)">\d+ (?:earlier|later) stages<', shown)

    assert drawn() == (0, 59, ["60"])
    assert drawn(stage="60") == (30, 89, ["29", "90"])
    assert drawn(stage="179") == (120, 179, ["119"])


def test_failures_are_grouped_with_their_tracebacks(page: Browser, stub_broker: StubBroker) -> None:
    @dramatiq.actor(throws=(ValueError,))
    def broken(number: int) -> None:
        raise ValueError(f"no {number}")

    run = Clutch().parallel([broken.message(1), broken.message(2)]).run()
    worker = dramatiq.Worker(stub_broker, worker_timeout=50, worker_threads=1)
    worker.start()
    try:
        with pytest.raises(Exception, match="ValueError"):
            run.get_result(block=True)
    finally:
        worker.stop()
    shown = page.text("/run", id=run.run_id, state="dead")
    assert re.search("2 . <bdi>ValueError</bdi>", shown)
    assert "raise ValueError(f&#34;no {number}&#34;)" in shown
    assert max(shown.count("no 1"), shown.count("no 2")) >= 2  # of the first one: in the group, and beside its member
    assert "It has failed in stage 0" in shown


# What comes from jobs


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_of_a_job_gets_out_of_its_place(page: Browser, idle: Any, text: str) -> None:
    name = re.sub(r"\s", " ", text)[:200]
    clutch = Clutch(name=name, context={"text": text[:8_000]}).then(
        idle.message(text), name=name[:100] if name.isprintable() else None
    )
    run = clutch.run(run_id="hostile", tags=[name[:100]])
    for shown in (page.text("/"), page.text("/", name=name, tag=name[:100]), page.text("/run", id=run.run_id)):
        assert "\u202e" not in re.sub("<bdi>.*?</", "", shown, flags=re.DOTALL)
        assert "<script>" not in shown
        assert "<b>" not in shown
        assert "' onmouseover" not in shown
        assert shown.count("</bdi>") == shown.count("<bdi>")
        assert "x" * 2_001 not in shown


def test_a_failures_text_is_shown_as_text() -> None:
    failure = JobFailure(0, None, "a", "", "E", "<script>\u202e", 1)
    status = RunStatus("r", None, "failed", (StageStatus("failed", 1),), (failure,), failure, 0, 0)
    assert "E: &lt;script&gt;" in waits_for(status)


def test_an_event_is_one_line_whatever_is_in_it() -> None:
    for text in HOSTILE:
        sent = event("view", text)
        assert sent.isascii()
        lines = sent.split("\n")
        assert (len(lines), lines[0], lines[2:]) == (4, "event: view", ["", ""])
        assert json.loads(lines[1].removeprefix("data: ")) == text


def test_what_is_hidden_isnt_shown(stub_broker: StubBroker, idle: Any) -> None:
    run = Clutch(context={"key": "secret"}).then(idle.message("secret")).run()
    everything = Browser(app(stub_broker, redact=True)).text("/run", id=run.run_id)
    assert "secret" not in everything
    assert HIDDEN in everything
    some = Browser(app(stub_broker, redact=lambda text: text.replace("secret", "***"))).text("/run", id=run.run_id)
    assert "secret" not in some
    assert "***" in some


def test_failures_are_hidden_wherever_they_are() -> None:
    failure = JobFailure(0, None, "a", "", "E", "secret", 1, "secret", traceback="secret")
    status = RunStatus("r", None, "failed", (StageStatus("failed", 1),), (failure,), failure, 0, 0)
    hidden = Hiding(True).status(status)
    assert "secret" not in f"{hidden} {hidden.failures[0].traceback} {hidden.waits_for()}"
    with pytest.raises(TypeError, match="redact is 'yes'"):
        Hiding("yes")  # type: ignore[arg-type]


# What protects the browser


def test_every_answer_has_headers_that_protect_it(acting: Browser, idle: Any) -> None:
    run = Clutch().then(idle.message()).run()
    nonces = set()
    for path in ("/", f"/run?id={run.run_id}", f"/act?id={run.run_id}&do=cancel", "/run?id=none", "/none", "/page.css"):
        answer = acting.get(path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'nonce-")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == ("same-origin" if "act?" in path else "no-referrer")
        assert answer.headers["cache-control"] == ("no-cache" if "css" in path else "no-store")
        nonce = re.findall(r"'nonce-([^']+)'", policy)[0]
        nonces.add(nonce)
        assert set(re.findall(r'nonce="([^"]+)"', answer.text)) <= {nonce}
        assert not re.search(r"\sstyle=|\son\w+=|javascript:|https?://(?!www\.w3\.org/2000/svg)", answer.text)
    assert len(nonces) == 6


def test_a_file_that_is_asked_for_by_its_content_is_kept(page: Browser) -> None:
    for address in re.findall(r'(?:href|src)="((?:page|icon)\.\w+\?v=\w+)"', page.text("/")):
        answer = page.get(f"/{address}")
        assert (answer.status_code, "immutable" in answer.headers["cache-control"]) == (200, True)


@pytest.mark.parametrize(
    ("headers", "same"),
    [
        ({}, False),
        ({"origin": "http://page"}, True),
        ({"origin": "https://PAGE"}, True),  # a proxy in front of it speaks TLS
        ({"origin": "http://page:81"}, False),
        ({"origin": "http://page.evil"}, False),
        ({"origin": "null"}, False),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "same-origin", "origin": "null"}, True),
        ({"sec-fetch-site": "same-origin", "origin": "http://evil"}, False),
        ({"sec-fetch-site": "same-site", "origin": "http://page"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "none"}, False),
    ],
)
def test_who_is_of_the_same_origin(headers: dict[str, str], same: bool) -> None:
    assert is_same_origin({"host": "page", **headers}) is same


# What changes runs


def test_without_actions_there_are_no_buttons_and_nothing_is_changed(page: Browser, idle: Any) -> None:
    run = Clutch().then(idle.message()).run()
    assert "act?" not in page.text("/run", id=run.run_id)
    for method in ("GET", "POST"):
        assert page.ask(method, f"/act?id={run.run_id}&do=cancel", HERE).status_code == 403
    assert run.status().state == "running"


def test_a_change_is_confirmed_made_and_told(acting: Browser, idle: Any, caplog: pytest.LogCaptureFixture) -> None:
    run = Clutch().then(idle.message()).run(run_id="run")
    assert "act?id=run&amp;do=cancel" in acting.text("/run", id="run")
    assert '<form method="post"' in acting.text("/act", id="run", do="cancel")
    assert run.status().state == "running"  # it was only asked
    with caplog.at_level(logging.INFO, "dramatiq_clutch.web.acting"):
        answer = acting.ask("POST", "/act?id=run&do=cancel", HERE)
    assert (answer.status_code, answer.headers["location"]) == (303, "run?id=run&told=cancel")
    assert run.status().state == "cancelled"
    assert "By the page, 'ann' let cancel run 'run': done" in caplog.text
    assert "The run was cancelled." in acting.text("/run", id="run", told="cancel")
    assert acting.ask("POST", "/act?id=run&do=retry", HERE).headers["location"].endswith("told=retry")
    assert acting.ask("POST", "/act?id=run&do=delete", HERE).status_code == 409  # it is at work again
    acting.ask("POST", "/act?id=run&do=cancel", HERE)
    assert acting.ask("POST", "/act?id=run&do=delete", HERE).headers["location"] == "./?told=delete"
    assert list(runs()) == []


@pytest.mark.parametrize("headers", [None, {"Origin": "http://evil"}, {"Sec-Fetch-Site": "cross-site"}])
def test_another_site_changes_nothing(acting: Browser, idle: Any, headers: dict[str, str] | None) -> None:
    run = Clutch().then(idle.message()).run(run_id="run")
    assert acting.ask("POST", "/act?id=run&do=cancel", headers).status_code == 403
    assert run.status().state == "running"


def test_who_may_change_nothing_is_refused(stub_broker: StubBroker, idle: Any) -> None:
    Clutch().then(idle.message()).run(run_id="run")
    nobody = Browser(app(stub_broker, actions=lambda scope: None))
    assert nobody.ask("POST", "/act?id=run&do=cancel", HERE).status_code == 403
    assert "act?" not in nobody.text("/run", id="run")
    assert Run("run").status().state == "running"


class Awaitable:
    """What somebody has forgotten to await."""

    def __await__(self) -> Any:
        raise AssertionError


@pytest.mark.parametrize("answer", [None, "", False, True, Awaitable()])
def test_what_is_no_name_lets_nobody_in(stub_broker: StubBroker, idle: Any, answer: Any) -> None:
    """Such as the answer of a callable that says whether somebody is known."""
    run = Clutch().then(idle.message()).run(run_id="run")
    page = Browser(app(stub_broker, actions=lambda scope: answer))
    with contextlib.nullcontext() if not answer else pytest.raises(TypeError, match="has to return a name"):
        assert page.ask("POST", "/act?id=run&do=cancel", HERE).status_code == 403
    assert run.status().state == "running"


def test_who_it_is_is_not_awaited(stub_broker: StubBroker) -> None:
    async def who(scope: Any) -> str:
        raise AssertionError

    with pytest.raises(TypeError, match="coroutine function"):
        app(stub_broker, actions=who)  # type: ignore[arg-type]


# Where it is, and what goes wrong


def test_all_links_are_relative_and_the_application_is_sent_to_its_slash(stub_broker: StubBroker, idle: Any) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    Clutch().then(idle.message()).run(run_id="run")
    mounted = Browser(Starlette(routes=[Mount("/deep/runs", app(stub_broker))]))
    shown = mounted.text("/deep/runs/") + mounted.text("/deep/runs/run?id=run")
    links = re.findall(r'(?:href|src|action|data-feed)="([^"]*)"', shown)
    assert links
    assert not [link for link in links if link.startswith("/") or "://" in link]

    async def bare() -> list[Any]:
        sent: list[Any] = []
        scope = {"type": "http", "method": "GET", "path": "/deep/runs", "root_path": "/deep/runs", "headers": []}

        async def send(message: Any) -> None:
            sent.append(message)

        await app(stub_broker)({**scope, "query_string": b""}, send, send)  # type: ignore[arg-type]
        return sent

    assert (b"location", b"runs/") in asyncio.run(bare())[0]["headers"]


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("/run?id=none", 404),
        ("/run", 400),
        ("/?state=wrong", 400),
        ("/?since=ever", 400),
        ("/?cursor=%3Cb%3E", 400),
        ("/?name=" + "x" * 3_000, 400),
        ("/run?id=run&stage=7", 400),
        ("/run?id=run&stage=%C2%B2", 400),
        ("/run?id=run&state=wrong", 400),
        ("/run?id=run&cursor=wrong", 400),
        ("/run-events?id=run&stage=x", 400),
        ("/nowhere", 404),
    ],
)
def test_what_cant_be_shown_is_told(page: Browser, idle: Any, address: str, code: int) -> None:
    Clutch().then(idle.message()).run(run_id="run")
    assert page.get(address).status_code == code


def test_while_the_store_is_away_that_is_told_without_its_address(
    page: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: Any) -> None:
        raise StateUnavailable("redis://user:password@host is away")

    monkeypatch.setattr("dramatiq_clutch.web.pages.list_view", away)
    answer = page.get("/")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "password" not in answer.text
    assert "data-again" in answer.text  # by which the page's script tries it again
    assert "data-again" not in page.get("/", state="none").text


def test_it_takes_a_broker_or_a_backend(stub_broker: StubBroker) -> None:
    for given in ("redis://", None):
        with pytest.raises(TypeError, match="takes a broker"):
            app(given)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="actions is 'yes'"):
        app(stub_broker, actions="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0 ms"),
        (99, "99 ms"),
        (400, "0.4 s"),
        (12_000, "12 s"),
        (192_000, "3 min 12 s"),
        (7_500_000, "2 h 5 min"),
        (273_600_000, "3 d 4 h"),
    ],
)
def test_durations(milliseconds: int, text: str) -> None:
    assert duration(milliseconds) == text


def test_a_hundred_percent_is_the_end() -> None:
    assert [percent(part) for part in (0.0, 0.999999, 1.0)] == ["0 %", "99 %", "100 %"]


# What it costs


@pytest.mark.parametrize("many", [300, pytest.param(100_000, marks=pytest.mark.heavy)])
def test_a_look_costs_the_same_however_many_runs_there_are(redis_broker: RedisBroker, many: int) -> None:
    jobs, client, costs = Jobs(redis_broker), redis_broker.client, list[Any]()
    for number in (10, many):
        client.flushall()
        engine, keeping = engine_of(redis_broker), Keeping(10**6, 10**12, 10**12)
        for at in range(0, number, 500):
            turns = [(one, Turn("g", 1, "running", one + 1)) for one in range(at, min(at + 500, number))]
            some = [Enlisted(f"run-{one}", turn.entry()) for one, turn in turns]
            engine.backend.enlist(some, 0, keeping, application=engine.application)
        for _ in range(RUNS + 5):
            Clutch(name="a").then(jobs.job.message("a")).run(delay=10**7)
        costs.append(
            [cost_of(client, partial(list_view, redis_broker, wish)) for wish in (ListWish(), ListWish("running", "a"))]
        )
    assert costs[0] == costs[1]
    assert max(trips for trips, _ in costs[0]) <= 4


@pytest.mark.parametrize("many", [300, pytest.param(100_000, marks=pytest.mark.heavy)])
def test_a_look_costs_the_same_however_many_jobs_a_run_has(redis_broker: RedisBroker, many: int) -> None:
    jobs, client, costs = Jobs(redis_broker), redis_broker.client, list[Any]()
    for number in (MEMBERS + 5, many):
        client.flushall()
        run = Clutch().parallel((jobs.job.message(str(one)) for one in range(number)), limit=10).run(run_id="run")
        views = [RunWish(run.run_id), RunWish(run.run_id, state="dead")]
        costs.append([cost_of(client, partial(run_view, redis_broker, wish, Hiding(None))) for wish in views])
    assert costs[0] == costs[1]
    assert max(trips for trips, _ in costs[0]) <= 12


# The timeline


def member(index: int, state: Any, began: int | None, ended: int | None = None, **more: Any) -> Member:
    given: dict[str, Any] = {"attempts": 0, "retry_at": None, "error": None, "run_id": None, "worker": "<b>:12", **more}
    return Member(1, index, state, "load", "default", None, "", began=began, ended=ended, **given)


def timed(*members: Member, cursor: str | None = None, wish: RunWish | None = None, **status: Any) -> RunView:
    """The page of a run that was started at 1,000 ms, and whose second stage has these members."""
    stages = (
        StageStatus("succeeded", 1, 1, name="first", released=1_000, began=1_500, settled=2_000),
        StageStatus("running", 50, 1, released=2_000, began=2_100, settled=status.get("ended")),
        StageStatus("waiting", 1),
    )
    given: dict[str, Any] = {"created": 1_000, "updated": 4_000, **status}
    run = RunStatus("run", None, given.pop("state", "running"), stages, (), None, **given)
    return RunView(wish or RunWish("run"), run, 1, 1, {}, False, MemberPage(members, cursor), "")


def test_a_member_is_a_bar_of_its_last_attempt_below_its_stage() -> None:
    view = timed(
        member(0, "succeeded", 2_100, 2_600),
        member(1, "working", 3_000, attempts=1),
        member(2, "failing", 2_200, 2_400, attempts=2, retry_at=9_000),
        member(3, "sent", None),
        member(4, "working", 2_050, worker=None, run_id="run~1.4"),
        member(5, "failing", 2_050, worker=None, run_id="run~1.5"),  # a nested run, which goes on
    )
    times = timeline(view, 5_000)
    assert [row.key for row in times.rows] == ["0", "1", "1.0", "1.1", "1.2", "1.4", "1.5"]
    assert [row.grows for row in times.rows] == [False, True, False, True, False, True, True]
    assert [row.attempt for row in times.rows] == [0, 0, 0, 2, 2, 1, 0]
    assert [times.at(row.began) for row in times.rows] == pytest.approx([12.5, 27.5, 27.5, 50, 30, 26.25, 26.25])
    assert times.wide(2_100, 2_600, LEAST) == pytest.approx(12.5)
    assert times.wide(3_000, None, LEAST) == pytest.approx(50 - LEAST)  # up to now
    assert times.wide(5_000, 5_000, LEAST) == LEAST
    shown = pages_of(view, 5_000)
    assert len(re.findall(r'<li class="member"', shown)) == 5
    assert shown.count('data-from="2050"') == 4  # both nested runs, in the timeline and in the table of members
    assert '<rect class="working" data-at="3000" x="50.00"' in shown  # without an end, so that the script has it grow
    assert '<rect class="again" data-at="2400" x="35.00"' in shown  # it waits for its next attempt
    assert "attempt 2, <span" in shown
    assert '<a href="run?id=run~1.4"><bdi>4 load</bdi></a>' in shown
    assert shown.count("<bdi>&lt;b&gt;:12</bdi>") == 2 * 3 + 1  # in the timeline, and in the table of members


def test_a_timeline_says_what_it_shows_without_being_seen() -> None:
    shown = pages_of(timed(member(2, "failing", 2_200, 2_400, attempts=1, retry_at=9_000)), 5_000)
    row = re.sub(r"<[^>]*>|\s+", " ", re.findall(r'<li class="member".*?</li>', shown, re.DOTALL)[0])
    stamp = "1970-01-01 00:00:0{} UTC"
    said = f"2 load 0.2 s on <b>:12 failing, from {stamp.format(2)} to {stamp.format(2)} , again at {stamp.format(9)}"
    assert html.unescape(" ".join(row.split())) == said
    assert "<svg" not in re.sub(r'<svg[^>]*aria-hidden="true"', "", shown)


def test_of_many_members_those_of_the_page_are_drawn_and_that_is_said() -> None:
    members = [member(0, "succeeded", 2_100, 2_600), member(1, "sent", None)]
    assert "drawn" not in pages_of(timed(*members), 5_000)
    first = pages_of(timed(*members, cursor="1.2"), 5_000)
    assert "1 of 50 members of <bdi>stage 1</bdi> is drawn, of those that are listed below." in first
    assert 'href="run?id=run&amp;stage=1&amp;cursor=1.2#h-times">Next</a>' in first
    dead = pages_of(timed(member(7, "dead", 2_100, 2_600), wish=RunWish("run", "1", "dead", "1.5")), 5_000)
    assert "listed below: only dead ones. <a" in dead
    assert '#h-times">First</a>' in dead


def test_in_a_run_at_rest_nothing_grows_and_what_is_still_at_work_has_no_duration() -> None:
    late = member(0, "succeeded", 2_100, 6_000)
    view = timed(late, member(1, "unsent", 2_200), state="cancelled", ended=4_000)
    times = timeline(view, 9_000)
    assert (times.last, times.is_over) == (6_000, True)
    assert not any(row.grows for row in times.rows)
    shown = pages_of(view, 9_000)
    assert "data-grows" not in shown
    assert "data-from" not in shown
    assert '<rect class="unsent" data-at="2200" data-to="6000"' in shown


def test_without_timings_the_timeline_has_stages_alone_and_the_table_is_as_ever(page: Browser, idle: Any) -> None:
    Clutch().then(idle.message()).run(run_id="plain")
    shown = page.text("/run", id="plain")
    assert '<li class="line"' in shown
    assert '<li class="member"' not in shown
    assert ">Worker</th>" not in shown
    assert ">Worker</th>" in pages_of(timed(member(0, "succeeded", 2_100, 2_600)), 5_000)


def test_the_script_knows_how_narrow_a_bar_may_be() -> None:
    script = asset("page.js").decode()
    assert f", {100 - LEAST})" in script
    assert f"? 0 : {LEAST})" in script


def pages_of(view: RunView, now: int) -> str:
    """What is live on a run's page."""
    return (
        environment()
        .get_template("_run.html")
        .render(view=view, verbs=(), times=timeline(view, now), is_at_work=is_at_work, now=now)
    )


# Callbacks


def callbacks_on_the_page(*callbacks: CallbackStatus, more: int = 0) -> list[str]:
    """What the page says of callbacks, without its markup: a text for each."""
    shown = pages_of(replace(timed(), callbacks=callbacks, more_callbacks=more), 5_000)
    section = shown.partition('aria-labelledby="h-callbacks"')[2].partition("</section>")[0]
    assert section.count("</bdi>") == section.count("<bdi>")
    items = re.findall(r"<li .*?</li>|<p .*?</p>", section, re.DOTALL)
    return [html.unescape(" ".join(re.sub(r"<[^>]*>", " ", item).split())) for item in items]


def test_callbacks_are_told_with_when_they_were_sent_and_by_more_than_colours() -> None:
    one = CallbackStatus("on_failed", "notify", "low", "owed", 1, 1, 1_000)
    at = "1970-01-01 00:00:0{} UTC".format
    assert callbacks_on_the_page(
        replace(one, state="unfired", stage=None, count=0, owed=None),
        one,
        replace(one, state="sent", sent=2_000, count=1_234),
        replace(one, state="succeeded", sent=2_000, ended=3_000, queue="default"),
        replace(one, event="on_death", state="dead", ended=3_000),
        CallbackStatus("on_success", None, None, None),
        more=2,
    ) == [
        "on_failed notify queue low ○ unfired",
        f"on_failed notify queue low … owed since {at(1)}",
        f"on_failed notify queue low » sent sent {at(2)} · 1,234 times so far",
        f"on_failed notify ✓ succeeded sent {at(2)} , ended {at(3)}",
        f"on_death notify queue low ✕ dead couldn't be sent, ended {at(3)} · in stage 1",
        "on_success whom it calls isn't known any more ? unknown",
        "and 2 more callbacks",
    ]
    assert callbacks_on_the_page(replace(one, event="on_death", stage=99)) == [
        f"on_death notify queue low … owed since {at(1)}"
    ]
    assert callbacks_on_the_page() == []


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_name_of_who_is_called_gets_out_of_its_place(page: Browser, idle: Any, text: str) -> None:
    @dramatiq.actor(actor_name=text)
    def evil(status: Any) -> None: ...

    Clutch(on_failed=[evil] * 30, on_success=evil).then(idle.message()).run(run_id="hostile")
    shown = page.text("/run", id="hostile")
    section = shown.partition('aria-labelledby="h-callbacks"')[2].partition("</section>")[0]
    assert section.count("<li ") == section.count("<bdi>") == section.count("</bdi>") == CALLBACKS
    assert "and 6 more callbacks" in section
    assert html.escape(text[:59]).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in section
    assert "<script>" not in shown
    assert "' onmouseover" not in shown
    assert "x" * 61 not in section


# As it changes


def follow(work: Callable[[Feeds], Any]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(work(Feeds()), PATIENCE)

    return asyncio.run(bounded())


async def told(stream: AsyncGenerator[str, None], count: int) -> list[str]:
    """The data of the next events."""
    found: list[str] = []
    async for sent in stream:
        if sent.startswith("event: view"):
            found.append(json.loads(sent.split("data: ")[1]))
            if len(found) == count:
                break
    return found


def test_one_look_serves_all_viewers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds_module, "LOOK_AGAIN", 0.01)
    looks: list[int] = []

    def look() -> int:
        looks.append(1)
        return len(looks)

    async def many(feeds: Feeds) -> None:
        streams = [feeds.follow("same", look, str) for _ in range(200)]
        heard = await asyncio.gather(*(told(stream, 3) for stream in streams))
        assert len(feeds) == 1
        assert {one[0] for one in heard} == {"1"}
        assert len(looks) < 100  # 600 events were sent
        for stream in streams:
            await stream.aclose()
        assert len(feeds) == 0

    follow(many)


def test_what_hasnt_changed_isnt_sent_again_but_to_newcomers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds_module, "LOOK_AGAIN", 0.01)
    monkeypatch.setattr(feeds_module, "HEARTBEAT", 0.1)

    async def still(feeds: Feeds) -> None:
        first = feeds.follow("same", lambda: "still", str)
        sent = [await anext(first) for _ in range(3)]
        assert [one.split("\n")[0] for one in sent] == ["retry: 2000", "event: view", ": still here"]
        second = feeds.follow("same", lambda: "still", str)
        assert await told(second, 1) == ["still"]
        for stream in (first, second):
            await stream.aclose()

    follow(still)


def test_an_outage_is_told_and_ends_and_so_is_the_end_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds_module, "LOOK_AGAIN", 0.01)
    monkeypatch.setattr(feeds_module, "HEARTBEAT", 0.5)
    answers: list[Any] = ["there", StateUnavailable("away"), "there", "there"]

    def look() -> Any:
        answer = answers.pop(0) if answers else Run("none").status()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def heard(feeds: Feeds) -> list[str]:
        return [sent.split("\n")[0] async for sent in feeds.follow("it", look, str)]

    broker = StubBroker()
    from dramatiq_clutch import ClutchMiddleware

    broker.add_middleware(ClutchMiddleware())
    monkeypatch.setattr("dramatiq.broker.global_broker", broker)
    told_ = follow(heard)
    assert told_ == ["retry: 2000", "event: view", "event: away", "event: view", "event: gone"]
