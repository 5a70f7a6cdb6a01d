"""The page as one ASGI application: its addresses, and what each answers.

All addresses are on one level, and all links are relative: so it works below any path, whoever mounts it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from dramatiq import Broker
from jinja2 import Environment
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from ..backend import ClutchBackend
from ..detached import detached
from ..errors import ClutchError, NestingError, RunAtWork, RunNotFound, Unavailable
from .acting import DONE, VERBS, Actor, offered
from .feeds import Feeds
from .guarding import NONCE, Guard, is_same_origin
from .hiding import Hiding, Redact
from .texts import asset, environment
from .timeline import is_at_work, timeline
from .views import SINCE, ListView, ListWish, RunView, RunWish, chosen, found, list_view, run_view

#: What `app(actions=…)` takes.
Actions: TypeAlias = Callable[[Scope], str | None] | bool

#: The files that a page loads, and their types.
ASSETS: dict[str, str] = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}

#: How long a browser may keep such a file, whose address changes with what is in it.
A_YEAR = "public, max-age=31536000, immutable"


def app(broker_or_backend: Broker | ClutchBackend, *, actions: Actions = False, redact: Redact = None) -> ASGIApp:
    """The page of runs, as an ASGI application to be mounted below any path, behind the login of the application around
    it: it asks nobody who he is. For example, with FastAPI::

        service.mount("/runs", app(broker))

    It shows the runs of one application: a list of them with filters, and for each run its stages, what it waits for,
    its failures, members and callbacks. Pages go on while they are looked at: one look a second at the state store
    serves all who view the same thing.

    Parameters:
      broker_or_backend: the application's broker; or the backend of its ClutchMiddleware, as for `detached`.
      actions: whether runs can be cancelled, retried, sent again and deleted there. A callable is given the ASGI scope
        of a request, and returns who it is from, or None for somebody who may change nothing. It isn't a coroutine
        function, and True is no name. With ``actions=True`` it is the scope's ``user``. Who did what is logged.
      redact: True hides arguments, contexts, texts of exceptions and tracebacks. A callable is given each such text and
        returns what is shown.

    Raises TypeError for anything else.
    """
    given: Any = broker_or_backend
    broker = detached(given) if isinstance(given, ClutchBackend) else given
    if not isinstance(broker, Broker):
        raise TypeError(f"app() takes a broker, or the backend of a ClutchMiddleware, not a {type(given).__name__}")
    pages = Pages(broker, Actor(broker, actions), Hiding(redact))
    routes = [
        Route("/", pages.list),
        Route("/events", pages.list_events),
        Route("/run", pages.run),
        Route("/run-events", pages.run_events),
        Route("/act", pages.act, methods=["GET", "POST"]),
        *(Route(f"/{name}", partial(pages.asset, name)) for name in ASSETS),
    ]
    errors: Any = {
        ClutchError: pages.error,
        ValueError: pages.error,
        HTTPException: pages.error,
    }
    return Guard(Rooted(Starlette(routes=routes, exception_handlers=errors)))


class Rooted:
    """Sends whoever asks for the application itself, without the slash behind it, to where its links work."""

    def __init__(self, app: ASGIApp) -> None:
        self.app: ASGIApp = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        root = scope.get("root_path", "")
        if scope["type"] == "http" and root and scope["path"] in ("", root):
            where = f"{root.rstrip('/').rpartition('/')[2]}/"
            await RedirectResponse(f"./{where}" if ":" in where else where, 307)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class Pages:
    """Answers requests. It holds nothing but its broker, its templates and what is being followed."""

    def __init__(self, broker: Broker, actor: Actor, hiding: Hiding) -> None:
        self.broker: Broker = broker
        self.actor: Actor = actor
        self.hiding: Hiding = hiding
        self.templates: Environment = environment()
        self.feeds: Feeds = Feeds()
        self.assets: dict[str, bytes] = {name: asset(name) for name in ASSETS}
        self.versions: dict[str, str] = {
            name: hashlib.sha256(data).hexdigest()[:12] for name, data in self.assets.items()
        }

    # The list

    async def list(self, request: Request) -> Response:
        sought = chosen(request.query_params, "q")
        if sought is not None and (where := await run_in_threadpool(found, self.broker, sought)) is not None:
            return RedirectResponse(where, 303)
        wish = ListWish.of(request.query_params)
        view = await run_in_threadpool(list_view, self.broker, wish)
        told = DONE.get(request.query_params.get("told", ""), "")
        return self._page(request, "list.html", 200, live=self._list(view), view=view, told=told, sought=sought)

    async def list_events(self, request: Request) -> Response:
        wish = ListWish.of(request.query_params)
        return self._stream(("list", wish), partial(list_view, self.broker, wish), self._list)

    def _list(self, view: ListView) -> str:
        return self._render("_list.html", view=view, since=SINCE)

    # A run

    async def run(self, request: Request) -> Response:
        wish = RunWish.of(request.query_params)
        view = await run_in_threadpool(self._look, wish)
        told = DONE.get(request.query_params.get("told", ""), "")
        live = self._run(self._may_act(request), view)
        return self._page(request, "run.html", 200, live=live, view=view, told=told)

    async def run_events(self, request: Request) -> Response:
        wish = RunWish.of(request.query_params)
        may_act = self._may_act(request)
        return self._stream(("run", wish, may_act), partial(self._look, wish), partial(self._run, may_act))

    def _look(self, wish: RunWish) -> RunView:
        return run_view(self.broker, wish, self.hiding)

    def _may_act(self, request: Request) -> bool:
        return self.actor.who(request.scope) is not None

    def _run(self, may_act: bool, view: RunView) -> str:
        verbs = offered(view.status) if may_act else ()
        times = timeline(view, int(time.time() * 1000))
        return self._render("_run.html", view=view, verbs=verbs, times=times, is_at_work=is_at_work)

    # Changes

    async def act(self, request: Request) -> Response:
        """Ask whether a change is meant, and, when that is posted by this page, make it."""
        wish, verb = RunWish.of(request.query_params), request.query_params.get("do", "")
        who = self.actor.who(request.scope)
        if verb not in VERBS or who is None:
            raise HTTPException(403, "Runs can't be changed here.")
        if request.method != "POST":
            view = await run_in_threadpool(self._look, RunWish(wish.id))
            answer = self._page(request, "act.html", 200, view=view, verb=VERBS[verb], do=verb)
            # Otherwise the browser would hide where the button was pressed, and the change be refused.
            answer.headers["Referrer-Policy"] = "same-origin"
            return answer
        if not is_same_origin(request.headers):
            raise HTTPException(403, "A run can only be changed by a button of this page.")
        told = await run_in_threadpool(self.actor.act, who, verb, wish.id)
        where = f"./?told={told}" if verb == "delete" else f"{RunWish(wish.id).address()}&told={told}"
        return RedirectResponse(where, 303)

    # What all have in common

    async def asset(self, name: str, request: Request) -> Response:
        current = request.query_params.get("v") == self.versions[name]
        headers = {"Cache-Control": A_YEAR if current else "no-cache"}
        return Response(self.assets[name], media_type=ASSETS[name], headers=headers)

    async def error(self, request: Request, error: Exception) -> Response:
        """The page for an error: its own text, which is for users."""
        if isinstance(error, HTTPException) and error.status_code in (404, 405):
            # Its address may be on another level, from where the page's own files aren't found.
            return PlainTextResponse(f"{error.detail}\n", error.status_code, headers=error.headers)
        status, title = 400, "That can't be shown"
        headers: dict[str, str] = {}
        if isinstance(error, HTTPException):
            status, title = error.status_code, "Not possible"
            headers = dict(error.headers or {})
        elif isinstance(error, RunNotFound):
            status, title = 404, "There is no such run"
        elif isinstance(error, Unavailable):
            status, title, headers = 503, "The state store is away", {"Retry-After": "5"}
        elif isinstance(error, RunAtWork | NestingError):
            status, title = 409, "Not possible"
        elif isinstance(error, ClutchError):
            status, title = 500, "That can't be read"
        text = error.detail if isinstance(error, HTTPException) else str(error)
        if isinstance(error, Unavailable):  # its text may have the address of the server
            text = "It can't be reached for now. Nothing is lost: runs go on when it is back."
        away = isinstance(error, Unavailable)
        answer = self._page(request, "error.html", status, title=title, text=text, away=away)
        answer.headers.update(headers)
        return answer

    def _stream(self, key: Any, look: Callable[[], Any], render: Callable[[Any], str]) -> Response:
        return StreamingResponse(
            self.feeds.follow(key, look, render),
            media_type="text/event-stream",
            headers={"X-Accel-Buffering": "no"},
        )

    def _page(self, request: Request, template: str, status: int, **values: Any) -> Response:
        html = self._render(
            template, **values, nonce=request.scope[NONCE], versions=self.versions, path=request.scope["path"]
        )
        return Response(html.encode(errors="replace"), status, media_type="text/html")

    def _render(self, template: str, **values: Any) -> str:
        return self.templates.get_template(template).render(now=int(time.time() * 1000), **values)
