"""The names of a run's keys. The README of the folder above says what each of them holds."""

from __future__ import annotations

#: The parts of the keys of stages that a script may name, by table: the distance of the stage from the one that the
#: script is called for (the stage before, this stage, or the next one), and the parts.
OF_STAGE: dict[str, tuple[int, tuple[str, ...]]] = {
    "before": (-1, ("members", "standing", "dead", "attempts", "nests", "times")),
    "here": (0, ("members", "standing", "dead", "attempts", "nests", "halted", "items", "due", "times")),
    "after": (1, ("members",)),
}


def key(namespace: str, run_id: str, part: str, generation: str = "") -> str:
    """The name of a key, such as `dramatiq-clutch:{my-run}:members:0:76543210`.

    The head, the tombstone, `past`, the draft and the channel (`bell`) go by the run's id alone. All other names end
    with the generation, so that nobody finds anything of another run that has had the same id.
    """
    return f"{namespace}:{{{run_id}}}:{part}" + (f":{generation}" if generation else "")


def keys_of(namespace: str, run_id: str, stage: int, generation: str) -> dict[str, str]:
    """All keys of a run that a script may name, including those of this stage, the one before and the next one."""
    begin, end = f"{namespace}:{{{run_id}}}:", f":{generation}" if generation else ""
    keys = {
        "head": f"{begin}head",
        "plan": f"{begin}plan{end}",
        "outbox": f"{begin}outbox{end}",
        "bell": f"{begin}bell",
        "tombstone": f"{begin}tombstone",
        "past": f"{begin}past",
        "callbacks": f"{begin}callbacks{end}",
        "failures": f"{begin}failures{end}",
        "tally": f"{begin}tally{end}",
    }
    for table, (distance, parts) in OF_STAGE.items():
        at = f":{stage + distance}{end}"
        for part in parts:
            keys[f"{table}.{part}"] = f"{begin}{part}{at}"
    return keys


def register(namespace: str, application: str) -> dict[str, str]:
    """The keys of the register of an application's runs. The braces make them lie in one slot of a Redis Cluster."""
    begin = f"{namespace}:register:{{register:{application}}}:"
    return {part: begin + part for part in ("entries", "places", "ended", "stopped")}


def index(namespace: str, application: str) -> str:
    """The sorted set of an application's runs that are at work, by when a sweeper looks at them next."""
    return f"{namespace}:index:{application}"


def workers(namespace: str, application: str) -> str:
    """The sorted set of an application's workers, by until when they count as there."""
    return f"{namespace}:workers:{application}"
