"""The page of runs in a real browser, while a real worker works."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from typing import Any, Literal

import dramatiq
import pytest
from axe_playwright_python.sync_playwright import Axe
from dramatiq.brokers.redis import RedisBroker
from playwright.sync_api import Page, expect

from dramatiq_clutch import Clutch, Run
from dramatiq_clutch.web import app
from dramatiq_clutch.web.timeline import LEAST
from tests.conftest import running_worker
from tests.support.awaiting import PATIENCE, wait_until
from tests.support.browser import browsing, served

pytestmark = pytest.mark.process

#: The themes and widths in which a page is looked at.
LOOKS: tuple[tuple[Literal["light", "dark"], int], ...] = (("light", 1920), ("light", 1440), ("dark", 360))

#: A name or an argument that would do something, and would turn what comes behind it, if the page let it.
HOSTILE = "<i onclick=\"document.title = 'taken'\">\u202eevil"

expect.set_options(timeout=PATIENCE * 1_000)


class Stage:
    """Actors that do what the test says."""

    def __init__(self) -> None:
        self.opened, self.heals = threading.Event(), threading.Event()

        @dramatiq.actor
        def gated(number: int) -> int:
            assert self.opened.wait(PATIENCE)
            return number

        @dramatiq.actor(throws=(ValueError,))
        def brittle(text: str) -> None:
            if not self.heals.is_set():
                raise ValueError(f"<script>document.title = 'taken'</script> {text}")

        @dramatiq.actor
        def quick(number: int) -> int:
            return number

        @dramatiq.actor(actor_name="told." * 30, queue_name="q" * 40)
        def told(status: dict[str, Any]) -> None: ...

        self.gated, self.brittle, self.quick, self.told = gated, brittle, quick, told


@pytest.fixture
def stage(redis_broker: RedisBroker) -> Iterator[Stage]:
    made = Stage()
    yield made
    made.opened.set()


def main_of(page: Page) -> Any:
    return page.locator("main")


def test_a_list_is_filtered_and_leads_to_a_run_that_is_seen_to_go_on(redis_broker: RedisBroker, stage: Stage) -> None:
    names = {"load": "monday", "report": "tuesday"}
    for name, run_id in names.items():
        Clutch(name=name).parallel([stage.gated.message(number) for number in range(3)], name="gate").then(
            stage.gated.message(9), name="last"
        ).run(run_id=run_id, tags=[name])
    with served(app(redis_broker)) as address, browsing() as page, running_worker(redis_broker):
        page.goto(address)
        rows = page.locator("tbody tr")
        expect(rows).to_have_count(2)
        page.get_by_label("Find a run").fill("load")
        page.keyboard.press("Enter")
        expect(rows).to_have_count(1)
        assert page.url.endswith("?name=load")
        page.get_by_role("link", name="load").first.click()
        expect(page.get_by_role("heading", level=1)).to_have_text("load")
        expect(main_of(page)).to_contain_text("3 of 3 members not done")
        expect(page.locator("[data-pulse]")).to_have_text("live")
        page.locator("summary").first.evaluate_all("all => all.forEach(one => one.parentNode.open = true)")
        focused = page.get_by_role("link", name="Succeeded")
        focused.focus()
        stage.opened.set()
        expect(page.get_by_role("status")).to_contain_text("succeeded")  # nobody has reloaded the page
        expect(main_of(page)).to_contain_text("It has succeeded.")
        expect(focused).to_be_focused()
        page.goto(address)
        page.get_by_role("link", name=re.compile("^Succeeded")).click()
        expect(rows).to_have_count(2)


def test_a_run_is_cancelled_and_retried_and_a_list_that_is_open_shows_it(
    redis_broker: RedisBroker, stage: Stage
) -> None:
    cancelled = Clutch(name="long").then(stage.gated.message(1)).run()
    failed = Clutch(name=f"{HOSTILE} brittle").then(stage.brittle.message(HOSTILE + "x" * 10_000)).run()
    with served(app(redis_broker, actions=True)) as address, browsing() as page, running_worker(redis_broker):
        other = page.context.new_page()
        other.goto(address)
        page.goto(f"{address}/run?id={failed.run_id}")
        expect(page.get_by_role("status")).to_contain_text("failed")
        assert page.title() != "taken"
        expect(page.locator("h1")).to_have_text(f"{HOSTILE} brittle")
        assert page.title().startswith("<i onclick=\"document.title = 'taken'\">\\u202eevil brittle")  # as an escape
        said = page.locator(".failure .said")
        expect(said).to_contain_text(f"<script>document.title = 'taken'</script> {HOSTILE}xxx")
        assert len(said.inner_text()) < 2_000
        stage.heals.set()
        page.get_by_role("link", name="Retry").click()
        assert failed.status().state == "failed"  # it is only asked
        page.get_by_role("button", name="Retry").click()
        expect(page.locator(".told")).to_have_text("Its members are sent again.")
        expect(page.locator(".now")).to_contain_text("succeeded")
        page.goto(f"{address}/run?id={cancelled.run_id}")
        page.get_by_role("link", name="Cancel").click()
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator(".now")).to_contain_text("cancelled")
        assert cancelled.status().state == "cancelled"
        stage.opened.set()
        other.bring_to_front()
        expect(other.locator("tbody")).to_contain_text("cancelled")
        expect(other.locator("tbody")).to_contain_text("succeeded")


def test_without_actions_there_are_no_buttons_and_another_site_cant_press_them(
    redis_broker: RedisBroker, stage: Stage
) -> None:
    run = Clutch().then(stage.gated.message(1)).run()
    with served(app(redis_broker)) as address, browsing() as page:
        page.goto(f"{address}/run?id={run.run_id}")
        expect(page.locator(".button")).to_have_count(0)
        answer = page.request.post(f"{address}/act?id={run.run_id}&do=cancel", headers={"Origin": address})
        assert answer.status == 403
    with served(app(redis_broker, actions=True)) as address, served(pressing(address, run)) as evil, browsing() as page:
        page.goto(evil)
        page.get_by_role("button").click()
        expect(main_of(page)).to_contain_text("only be changed by a button of this page")
    assert run.status().state == "running"


def pressing(address: str, run: Run) -> Any:
    """Another site, whose button would change a run."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import HTMLResponse
    from starlette.routing import Route

    async def form(request: Request) -> HTMLResponse:
        where = f"{address}/act?id={run.run_id}&amp;do=cancel"
        return HTMLResponse(f'<form method="post" action="{where}"><button>win</button></form>')

    return Starlette(routes=[Route("/", form)])


def test_a_run_is_found_and_cancelled_by_keys_alone(redis_broker: RedisBroker, stage: Stage) -> None:
    run = Clutch(name="long").then(stage.gated.message(1)).run(run_id="long-1")

    def go_to(page: Page, name: str) -> None:
        """Press the tab key until something is in focus, and Enter there."""
        for _ in range(60):
            page.keyboard.press("Tab")
            focused = page.locator(":focus")
            if focused.count() and focused.inner_text().strip() == name:
                page.keyboard.press("Enter")
                return
        raise AssertionError(f"no {name!r} is reached")

    with served(app(redis_broker, actions=True)) as address, browsing() as page:
        page.goto(address)
        page.keyboard.press("Tab")
        expect(page.locator(":focus")).to_have_text("Skip to the content")
        go_to(page, "long")
        page.wait_for_url("**/run?id=long-1")
        go_to(page, "Cancel")
        page.wait_for_url("**/act?*")
        go_to(page, "Cancel")
        expect(page.locator(".now")).to_contain_text("cancelled")
    assert run.status().state == "cancelled"


def test_of_many_stages_the_one_that_is_looked_at_is_in_sight(redis_broker: RedisBroker, stage: Stage) -> None:
    clutch = Clutch()
    for number in range(30):
        clutch = clutch.then(stage.quick.message(number))
    clutch.run(run_id="long")
    with served(app(redis_broker)) as address, browsing() as page:
        page.goto(f"{address}/run?id=long&stage=20")
        expect(page.locator("[data-pulse]")).to_have_text("live")  # which leaves it where it is
        expect(page.get_by_role("link", name="20 stage 20")).to_be_in_viewport()
        expect(page.get_by_role("link", name="1 stage 1", exact=True)).not_to_be_in_viewport()


def test_it_is_readable_without_javascript(redis_broker: RedisBroker, stage: Stage) -> None:
    run = Clutch(name="plain").then(stage.gated.message(1)).run()
    with served(app(redis_broker)) as address, browsing(java_script_enabled=False) as page:
        page.goto(address)
        page.get_by_role("link", name="plain").click()
        expect(main_of(page)).to_contain_text("1 of 1 member not done")
        expect(page.locator("[data-pulse]")).to_contain_text("UTC")
        assert page.url == f"{address}/run?id={run.run_id}"


def test_the_bars_of_members_at_work_grow_and_those_that_have_ended_stay(
    redis_broker: RedisBroker, stage: Stage
) -> None:
    members = [stage.gated.message(1), stage.quick.message(2)]
    run = Clutch(timings=True).parallel(members, name="both").then(stage.quick.message(3)).run()
    with served(app(redis_broker)) as address, browsing() as page, running_worker(redis_broker):
        page.goto(f"{address}/run?id={run.run_id}")
        rows = page.locator(".timeline .member")
        expect(rows).to_have_count(2)
        expect(rows.nth(1)).to_contain_text("succeeded, from")
        expect(rows.nth(0)).to_contain_text("working, from")
        assert rows.nth(0).locator("rect.working").get_attribute("data-to") is None
        place = rows.nth(1).locator("rect.succeeded").get_attribute("x")
        assert place is not None
        nearer = "(old) => Number(document.querySelector('.member rect.succeeded').getAttribute('x')) < old"
        page.wait_for_function(nearer, arg=float(place))  # the whole has become longer; nothing else has changed
        ends = "all => all.map(one => one.x.animVal.value + one.width.animVal.value)"
        assert page.locator(".member rect.working").evaluate_all(ends) == pytest.approx([100 - LEAST], abs=LEAST + 0.02)
        taken = rows.nth(0).locator(".took").inner_text()
        expect(rows.nth(0).locator(".took")).not_to_have_text(taken)
        stage.opened.set()
        expect(page.get_by_role("status")).to_contain_text("succeeded")
        expect(page.locator(".timeline[data-grows]")).to_have_count(0)
        expect(page.locator(".members .worker")).to_have_text(re.compile(rf":{os.getpid()}$"))  # of the last stage


def test_a_callback_is_seen_to_be_sent_and_to_end(redis_broker: RedisBroker, stage: Stage) -> None:
    """Its actor is an enemy's. The run is over by then, and the page still live."""
    name = "<img src=x onerror=\"document.title = 'taken'\">"

    @dramatiq.actor(actor_name=name)
    def tell(status: dict[str, Any]) -> None:
        assert stage.opened.wait(PATIENCE)

    run = Clutch(on_success=tell).then(stage.quick.message(1)).run()
    with served(app(redis_broker)) as address, browsing() as page:
        page.goto(f"{address}/run?id={run.run_id}")
        row = page.locator(".callbacks li")
        expect(row).to_have_count(1)
        expect(row).to_contain_text("unfired")
        with running_worker(redis_broker):
            expect(row.locator(".state")).to_have_text(re.compile("sent$"))
            expect(page.get_by_role("status")).to_contain_text("succeeded")
            stage.opened.set()
            expect(row.locator(".state")).to_have_text(re.compile("succeeded$"))
        expect(row.locator("code")).to_have_text(name)
        expect(row.locator("time")).to_have_count(2)
        expect(row).not_to_contain_text("UTC")  # it is the viewer's time
        assert page.title() != "taken"


def test_nothing_stands_in_anybodys_way(redis_broker: RedisBroker, stage: Stage) -> None:
    """Neither in the light nor in the dark, neither on a large screen nor on a telephone."""
    inner = Clutch(name="inner").then(stage.brittle.message("x" * 300)).then(stage.gated.message(2))
    called: dict[str, Any] = {"on_death": stage.told, "on_failed": [stage.told] * 2, "on_success": stage.told}
    outer = Clutch(name="outer" * 30, context={"tenant": "acme"}, timings=True, **called)
    outer = outer.parallel([inner] * 2, name="nested" * 10)
    run = outer.then(stage.gated.message(3)).run(run_id="outer", tags=["one", "t" * 100])
    Clutch(name="long", timings=True).parallel([stage.gated.message(1), stage.quick.message(2)]).run(run_id="timed")
    with running_worker(redis_broker):
        wait_until("the run to fail, and that to be told", lambda: run.callbacks()[-1].state == "succeeded")
        with served(app(redis_broker, actions=True)) as address, browsing() as page:
            for path in (
                "/",
                "/?state=stalled",
                "/run?id=outer",
                "/run?id=outer~0.0",
                "/run?id=timed",
                "/act?id=outer&do=delete",
                "/run?id=none",
            ):
                page.goto(address + path)
                page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
                for theme, width in LOOKS:
                    page.emulate_media(color_scheme=theme)
                    page.set_viewport_size({"width": width, "height": 900})
                    wide = page.evaluate("document.documentElement.scrollWidth")
                    assert wide <= width, f"{path} is {wide} pixels wide"
                    if width == 1440:
                        continue  # in which nothing is hidden that is seen elsewhere
                    found = Axe().run(page)
                    assert found.violations_count == 0, f"{path}, {theme}: {found.generate_report()}"
        stage.opened.set()
