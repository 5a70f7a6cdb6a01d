"""Asks for the page of runs behind the logins of the guide, as strangers and as those who may see it:
`python -m tests.support.logins FOLDER` prints the codes of the answers as JSON. It is a process of its own, because
Django is set up once in each."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import dramatiq
import httpx
from dramatiq.brokers.stub import StubBroker

from dramatiq_clutch import Clutch, ClutchMiddleware
from tests.test_readme import BLOCK, GUIDE


def applications() -> dict[str, Any]:
    """What the guide's section makes."""
    broker = StubBroker()
    broker.add_middleware(ClutchMiddleware())
    dramatiq.set_broker(broker)
    section = GUIDE.read_text().partition("\n## The page of runs\n")[2].partition("\n## ")[0]
    namespace: dict[str, Any] = {"broker": broker}
    for language, block in BLOCK.findall(section):
        assert language == "python"
        exec(compile(block, GUIDE, "exec"), namespace)
    return namespace


def django_site(folder: Path) -> tuple[Any, dict[str, str]]:
    """A site of Django's without pages, and the cookies of a guest and of one of its staff."""
    import django
    from django.conf import settings

    sys.modules["no_pages"] = ModuleType("no_pages")
    vars(sys.modules["no_pages"])["urlpatterns"] = []
    settings.configure(
        SECRET_KEY="x",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="no_pages",
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(folder / "site.sqlite")}},
    )
    django.setup()
    from django.contrib.auth.models import User
    from django.core.asgi import get_asgi_application
    from django.core.management import call_command
    from django.test import Client

    call_command("migrate", verbosity=0)
    cookies = {"nobody": "", "junk": "sessionid=junk"}
    for name, is_staff in (("guest", False), ("staff", True)):
        client = Client()
        client.force_login(User.objects.create_user(name, is_staff=is_staff))
        cookies[name] = f"sessionid={client.cookies['sessionid'].value}"
    return get_asgi_application(), cookies


def flask_cookie(flask_app: Any) -> str:
    """The cookie of somebody whom an application of Flask's has let in."""
    with flask_app.test_client() as client:
        with client.session_transaction() as session:
            session["user"] = "bob"
        return f"session={client.get_cookie('session').value}"


async def asked(application: Any, cookie: str) -> list[int]:
    """The codes that somebody is answered who looks at runs, loads the page's style, and cancels a run."""
    headers = {"Origin": "http://page", **({"Cookie": cookie} if cookie else {})}
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://page", headers=headers) as client:
        answers = [await client.get("/runs/"), await client.get("/runs/page.css")]
        answers.append(await client.post("/runs/act?id=run&do=cancel"))
    return [answer.status_code for answer in answers]


def main() -> None:
    made = applications()
    site, cookies = django_site(Path(sys.argv[1]))
    given = {
        "django": (made["with_runs"](site), cookies),
        "fastapi": (made["service"], {"nobody": "", "staff": "session=ann"}),
        "flask": (made["both"], {"nobody": "", "junk": "session=junk", "staff": flask_cookie(made["flask_app"])}),
    }
    idle, codes = dramatiq.actor(print), dict[str, dict[str, list[int]]]()
    for name, (application, those) in given.items():
        Clutch().then(idle.message()).run(run_id="run", if_exists="restart")
        codes[name] = {who: asyncio.run(asked(application, cookie)) for who, cookie in those.items()}
    json.dump(codes, sys.stdout)


if __name__ == "__main__":
    main()
