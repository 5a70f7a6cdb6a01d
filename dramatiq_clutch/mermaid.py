"""Draws a clutch as a Mermaid flowchart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .durations import in_words
from .steps import Description, Encoded, Stage, name_of

#: How many members of a stage are drawn, at most. The others become one box.
MOST_MEMBERS = 8


def draw(description: Description) -> str:
    """The whole flowchart as text."""
    drawing = Drawing()
    start = drawing.node("start", "(({}))", description.name or "start")
    ends = drawing.stages(description, [start])
    drawing.arrows(ends, [drawing.node("end", "(({}))", "done")])
    return "\n".join(["flowchart LR", *drawing.lines]) + "\n"


@dataclass
class Drawing:
    """The lines of a flowchart. Every node gets a made-up id, so that no text of the user's is taken for one."""

    lines: list[str] = field(default_factory=list)
    depth: int = 1
    count: int = 0

    def stages(self, description: Description, before: list[str]) -> list[str]:
        """Draw all stages, behind the nodes `before`. Returns the nodes that whatever follows waits for."""
        for stage in description.stages:
            before = self._stage(stage, before)
        return before

    def _stage(self, stage: Stage, before: list[str]) -> list[str]:
        if stage.source is not None:
            box = self.node("n", "[[{}]]", f"{name_of(stage.source)}()")
            self.arrows(before, [box], stage)
            return [box]
        shown = stage.members[:MOST_MEMBERS]
        ends: list[str] = []
        for member in shown:
            ends += self._member(stage, member, before)
        hidden = len(stage.members) - len(shown)
        if hidden or not shown:
            box = self.node("n", "[{}]", f"and {hidden} more" if hidden else "no members")
            self.arrows(before, [box], stage)
            ends.append(box)
        return ends

    def _member(self, stage: Stage, member: Encoded | Description, before: list[str]) -> list[str]:
        if isinstance(member, Encoded):
            shape = "[[{}]]" if stage.mapped else "[{}]"
            box = self.node("n", shape, member.actor_name)
            self.arrows(before, [box], stage)
            return [box]
        self.count += 1
        self._line(f"subgraph s{self.count}[{quoted(member.name or 'nested')}]")
        self.depth += 1
        first = self.node("n", "(({}))", " ")
        ends = self.stages(member, [first])
        self.depth -= 1
        self._line("end")
        self.arrows(before, [first], stage)
        return ends

    def node(self, kind: str, shape: str, text: str) -> str:
        self.count += 1
        name = f"{kind}{self.count}"
        self._line(name + shape.format(quoted(text)))
        return name

    def arrows(self, sources: list[str], targets: list[str], stage: Stage | None = None) -> None:
        label = f"|{quoted(', '.join(labels))}|" if stage and (labels := list(labels_of(stage))) else ""
        if len(sources) > 1:  # one node where all arrows meet takes fewer arrows than one from each to each
            self.count += 1
            meet = f"m{self.count}"
            self._line(f"{meet}(( ))")
            for source in sources:
                self._line(f"{source} --> {meet}")
            sources[:] = [meet]
        for target in targets:
            self._line(f"{sources[0]} -->{label} {target}")

    def _line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)


def labels_of(stage: Stage) -> Iterator[str]:
    if stage.wait:
        yield f"wait {in_words(stage.wait)}"
    into = f" into {stage.into}" if stage.into else ""
    if stage.name:
        yield stage.name
    if stage.mapped:
        yield f"map{into}"
    if stage.piped:
        yield f"pipe{into}"
    if stage.tolerant:
        yield "failures allowed"
    elif stage.allowed is not None:
        most = f"{stage.allowed}" if isinstance(stage.allowed, int) else f"{100 * stage.allowed:g}%"
        yield f"{most} failures allowed"
    if stage.enough is not None:
        yield f"enough {stage.enough}"
    if stage.limit:
        yield f"limit {stage.limit}"
    if stage.deadline is not None:
        yield f"deadline {in_words(stage.deadline)}"
    if stage.fail_fast:
        yield "fail fast"


def quoted(text: str) -> str:
    """A text as a label in quotes. Characters that would end it, or be read as markup, are written as entities."""
    escaped = "".join(char if char.isalnum() or char in " _-.,:/()" else f"#{ord(char)};" for char in text)
    return f'"{escaped}"'
