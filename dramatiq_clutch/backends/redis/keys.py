"""The names of a run's keys. What each of them holds is in the README of the folder above."""

from __future__ import annotations

#: The parts of a stage's keys, by whether they are those of the stage before, of this one, or of the next one.
OF_STAGE = {
    "before": (-1, ("members", "standing", "dead", "attempts")),
    "here": (0, ("members", "standing", "dead", "attempts", "nests", "halted", "items")),
    "after": (1, ("members",)),
}


def key(namespace: str, run_id: str, part: str, generation: str = "") -> str:
    """The name of a key. Only the head, the tombstone and the channel (bell) go by the run's id alone: all others are
    of one generation, so that nobody finds anything of another run that has had the id."""
    return f"{namespace}:{{{run_id}}}:{part}" + (f":{generation}" if generation else "")


def keys_of(namespace: str, run_id: str, stage: int, generation: str) -> dict[str, str]:
    """All keys of a run that a script may name, those of stages beside this one."""
    begin, end = f"{namespace}:{{{run_id}}}:", f":{generation}" if generation else ""
    keys = {
        "head": f"{begin}head",
        "plan": f"{begin}plan{end}",
        "outbox": f"{begin}outbox{end}",
        "bell": f"{begin}bell",
        "tombstone": f"{begin}tombstone",
        "callbacks": f"{begin}callbacks{end}",
    }
    for table, (distance, parts) in OF_STAGE.items():
        at = f":{stage + distance}{end}"
        for part in parts:
            keys[f"{table}.{part}"] = f"{begin}{part}{at}"
    return keys


def index(namespace: str, application: str) -> str:
    """The sorted set of an application's runs that are at work, by when a sweeper looks at them next."""
    return f"{namespace}:index:{application}"
