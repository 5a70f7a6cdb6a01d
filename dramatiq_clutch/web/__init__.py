"""The page of runs: `app` makes one ASGI application of it, to be mounted anywhere. It needs the extra `web`."""

from __future__ import annotations

from .pages import app

__all__ = ["app"]
