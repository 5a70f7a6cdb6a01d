"""Keeps the page safe in a browser: headers of every answer, and who may ask for a change."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: In the scope of a request: its nonce, by which the page's own script and style are known.
NONCE = "dramatiq_clutch.nonce"

#: Nothing is loaded but the page's own script, style and icon, and nobody may frame it. Presses on its buttons go
#: nowhere else.
POLICY: str = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class Guard:
    """Gives every answer of an application the headers that keep it safe."""

    def __init__(self, app: ASGIApp) -> None:
        self.app: ASGIApp = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        nonce = secrets.token_urlsafe(16)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY.format(nonce=nonce)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["X-Frame-Options"] = "DENY"
                headers["Cross-Origin-Opener-Policy"] = "same-origin"
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
                headers.setdefault("Referrer-Policy", "no-referrer")
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self.app({**scope, NONCE: nonce}, receive, guarded)


def is_same_origin(headers: Mapping[str, str]) -> bool:
    """Whether a request was made by a page of this very origin. A browser says so in `Sec-Fetch-Site`, where the
    connection is safe, and in `Origin`. A request that says neither isn't taken; one that says both must agree.

    An origin is compared by its host and port. Its scheme isn't, for a proxy in front of the application may have
    another one.
    """
    site, origin, host = headers.get("sec-fetch-site"), headers.get("origin"), headers.get("host", "")
    if site is not None and site != "same-origin":
        return False
    if origin is None or (origin == "null" and site is not None):
        return site is not None
    return bool(host) and urlsplit(origin).netloc.lower() == host.lower()
