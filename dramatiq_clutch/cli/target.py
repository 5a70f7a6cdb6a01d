"""Whose runs: the options by which the command finds a broker, or a state store alone."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dramatiq_clutch.terminal import safe

if TYPE_CHECKING:
    from dramatiq import Broker

Function = TypeVar("Function", bound=Callable[..., Any])


class Code(IntEnum):
    """The exit codes of the command."""

    DONE = 0
    REFUSED = 1  # not all was done; a run that was watched has failed; `doctor` has found something serious
    USAGE = 2  # what was asked for can't be: an unknown option or module, no broker, an extra that isn't installed
    NO_SUCH_RUN = 3
    AWAY = 4  # the state store or the broker can't be reached
    CANCELLED = 5  # a run that was watched was cancelled
    AT_WORK = 6  # a run that was watched is still at work


class Refusal(click.ClickException):
    """Ends the command with a text and an exit code."""

    def __init__(self, text: str, code: Code = Code.REFUSED) -> None:
        super().__init__(text)
        self.exit_code: int = code  # type: ignore[misc]

    def format_message(self) -> str:
        return "\n".join(safe(line) for line in self.message.split("\n"))


@dataclass
class Target:
    """What the options say of whose runs are meant. Those behind a verb come before those in front of it, and both
    before environment variables."""

    broker_name: str | None = None
    url: str | None = None
    namespace: str = "dramatiq-clutch"
    application: str | None = None
    path: str = "."
    json: bool = False
    said: dict[str, bool] = field(default_factory=dict)

    def note(self, name: str, value: Any, *, explicit: bool) -> None:
        if self.said.get(name) and not explicit:
            return
        setattr(self, name, value)
        self.said[name] = explicit

    @functools.cached_property
    def broker(self) -> Broker:
        """The broker, or a detached one. Raises Refusal."""
        if self.said.get("broker_name") and self.said.get("url"):
            raise Refusal("say either --broker or --url: the broker knows where its runs are", Code.USAGE)
        if self.broker_name is not None and not self.said.get("url"):
            return _imported(self.broker_name, self.path)
        if self.url is not None:
            return _detached(self.url, self.namespace, self.application)
        raise Refusal(
            "whose runs? Name the broker as to the command dramatiq: --broker MODULE or MODULE:BROKER; or the state "
            "store: --url redis://… The environment may say it: DRAMATIQ_CLUTCH_BROKER, or DRAMATIQ_CLUTCH_URL",
            Code.USAGE,
        )

    @property
    def is_detached(self) -> bool:
        """Whether there is the state store alone, so that workers have to do what follows."""
        from dramatiq_clutch.detached import DetachedBroker

        return isinstance(self.broker, DetachedBroker)

    @property
    def whose(self) -> str:
        """Whose runs they are, in words."""
        from dramatiq_clutch.engine import engine_of

        engine = engine_of(self.broker)
        other = " (see --application and --namespace for another one)" if self.is_detached else ""
        return f"the application {engine.application!r} in the namespace {engine.backend.namespace!r}{other}"


def _imported(name: str, path: str) -> Broker:
    """The broker of a module, found as Dramatiq's own command finds it. What the module prints goes to stderr."""
    from dramatiq.cli import import_broker

    sys.path.insert(0, path)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            broker: Broker = import_broker(name)[1]
    except Exception as error:  # a user's module may raise anything
        raise Refusal(_not_imported(name, path, error), Code.USAGE) from error
    return broker


def _not_imported(name: str, path: str, error: Exception) -> str:
    module = name.partition(":")[0]
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        return f"there is no module {error.name!r} in {path!r} or where Python looks: see --path, and PYTHONPATH"
    if module in sys.modules and isinstance(error, ImportError):
        text = str(error).rstrip(".")
        return f"{name!r} names no broker: {text}. Say MODULE:BROKER, or call dramatiq.set_broker() in the module"
    return f"the module {module!r} can't be imported: {type(error).__name__}: {error}"


def _detached(url: str, namespace: str, application: str | None) -> Broker:
    from dramatiq_clutch import RedisBackend, detached

    try:
        with _without("opentelemetry"):
            backend = RedisBackend(url=url, namespace=namespace)
    except ValueError as error:  # it may show the address, and so a password
        raise Refusal(
            "the --url is no address of a server: it is like redis://user:password@host:6379/0", Code.USAGE
        ) from error
    return detached(backend, application=application)


@contextlib.contextmanager
def _without(package: str) -> Iterator[None]:
    """Do something as if a package weren't installed, unless it is there already. redis-py imports OpenTelemetry where
    that is installed, which takes half as long as all else that the command does; and nobody measures a command."""
    if package in sys.modules:
        yield
        return
    hidden: dict[str, Any] = {package: None}
    sys.modules.update(hidden)
    try:
        yield
    finally:
        del sys.modules[package]


def _note(name: str, ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is None or value is False:
        return
    source = ctx.get_parameter_source(param.name or "")
    explicit = source is click.core.ParameterSource.COMMANDLINE
    ctx.ensure_object(Target).note(name, value, explicit=explicit)


def target_options(*, is_group: bool = False) -> Callable[[Function], Function]:
    """The options that say whose runs are meant, and how the answer is given. They may stand before a verb or behind
    it; the environment is read for those before it."""

    def option(*names: str, to: str, variable: str | None = None, **more: Any) -> Callable[[Function], Function]:
        return click.option(
            *names,
            f"_{to}",
            expose_value=False,
            is_eager=True,
            callback=functools.partial(_note, to),
            envvar=variable if is_group else None,
            show_envvar=is_group,
            **more,
        )

    def decorate(function: Function) -> Function:
        for add in reversed(
            (
                option(
                    "-b",
                    "--broker",
                    to="broker_name",
                    variable="DRAMATIQ_CLUTCH_BROKER",
                    metavar="MODULE[:BROKER]",
                    help="The broker, as the command dramatiq takes it.",
                ),
                option(
                    "--url",
                    to="url",
                    variable="DRAMATIQ_CLUTCH_URL",
                    metavar="URL",
                    help="Instead: the Redis server with the state of the runs. Workers then send what is to be sent.",
                ),
                option(
                    "--namespace",
                    to="namespace",
                    variable="DRAMATIQ_CLUTCH_NAMESPACE",
                    metavar="NAME",
                    help="With --url: what the keys of the runs begin with (dramatiq-clutch).",
                ),
                option(
                    "--application",
                    to="application",
                    variable="DRAMATIQ_CLUTCH_APPLICATION",
                    metavar="NAME",
                    help="With --url: whose runs (the namespace without its ending -clutch).",
                ),
                option("-P", "--path", to="path", metavar="DIR", help="Where the module is (the present directory)."),
                option("--json", to="json", is_flag=True, help="Answer in JSON, in ASCII."),
            )
        ):
            function = add(function)
        return function

    return decorate


class Escaping(logging.Formatter):
    """Makes one line of what is logged, in which nothing can do anything to a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return safe(f"{record.levelname.lower()}: {record.getMessage()}")


def log_to_stderr() -> None:
    """Show warnings of the libraries, escaped, unless the application's module sees to its log itself."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(Escaping())
    logging.getLogger().addHandler(handler)
