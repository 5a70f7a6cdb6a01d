"""The verb `top`: the runs at work, live in the terminal, with keys to steer them. Textual is imported here alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import click
from dramatiq import Broker
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import DataTable, Footer, Static
from textual.worker import get_current_worker

from dramatiq_clutch import ClutchError, Member, Run, RunNotFound, RunSummary, count_runs, runs
from dramatiq_clutch.terminal import COLOURS, safe

from .looking import RUN_HEADS, filter_options, member_table, run_row
from .showing import shown
from .target import Code, Refusal, Target, target_options
from .text import at_a_terminal

#: What is listed, in the order in which the key `f` goes through it: at first the runs at work.
VIEWS: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    ("at work", ("running", "failing")),
    ("stalled", ("stalled",)),
    ("failed", ("failed",)),
    ("cancelled", ("cancelled",)),
    ("succeeded", ("succeeded",)),
    ("all", (None,)),
)

#: How many runs, and members of a stage, are shown at most.
MOST = 100

#: The keys that steer a run, each with the method of the handle.
STEERING: list[BindingType] = [
    Binding("c", "steer('cancel')", "Cancel"),
    Binding("r", "steer('retry')", "Retry"),
    Binding("s", "steer('resend')", "Send again"),
    Binding("d", "steer('delete')", "Delete"),
]


@click.command("top")
@target_options()
@filter_options
@click.option("--interval", type=click.FloatRange(0.1), default=2.0, show_default=True, help="Seconds between looks.")
@click.pass_obj
def top_verb(target: Target, /, interval: float, **filters: Any) -> None:
    """Watch all runs at work, and steer them.

    \b
    Keys:
      Enter  the run's stages, members and failures; of a nested run, too
      f      what is listed: at work, stalled, failed, cancelled, succeeded, all
      c r s d  cancel, retry, send again or delete the run, after a question
      Esc    back
      q      end, as does Ctrl-C
    """
    if not (at_a_terminal(sys.stdin) and at_a_terminal(sys.stderr)):  # where Textual reads keys, and draws
        raise Refusal("top needs a terminal. In a pipe, there is `list --watch`, also with --json", Code.USAGE)
    count_runs(target.broker)  # whatever is wrong is told before the terminal is taken
    Top(target.broker, interval, filters).run()


class Question(ModalScreen[bool]):
    """Asks for a yes or a no."""

    DEFAULT_CSS: ClassVar[str] = """
    Question { align: center middle; }
    Question Static { width: auto; max-width: 76; padding: 1 3; border: thick $warning; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape,enter", "answer(False)", "No"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self.question = question

    def compose(self) -> ComposeResult:
        yield Static(Text(f"{self.question} [y/N]"))

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)


class Looking(Screen[None]):
    """A screen that looks again and again, in a thread of its own, and has a table whose rows can be steered. `heads`
    are those of the columns that the table has."""

    BINDINGS: ClassVar[list[BindingType]] = STEERING

    def __init__(self, broker: Broker, interval: float) -> None:
        super().__init__()
        self.broker: Broker = broker
        self.interval: float = interval
        self.table: DataTable[Text] = DataTable(cursor_type="row", zebra_stripes=True)
        self.heads: tuple[str, ...] = ()
        self.told: Static = Static()
        self.complains: bool = False

    def on_mount(self) -> None:
        self.table.focus()
        self.set_interval(self.interval, self.look_soon)
        self.look_soon()

    def look_soon(self) -> None:
        """Look now, and at nothing else that was to be looked at. Looks are a group of their own: the last one cancels
        the others of its group, and would cancel what a key has begun."""
        self.run_worker(self._look, thread=True, exclusive=True, group="looks")

    def _look(self) -> None:
        try:
            show = partial(self.show, self.look())
        except ClutchError as error:
            show = partial(self.complain, str(error))
        if not get_current_worker().is_cancelled:
            self.app.call_from_thread(show)

    def look(self) -> Callable[[], None]:
        """Look, which may take a while. Returns what shows it."""
        raise NotImplementedError

    def steered(self) -> str | None:
        """The id of the run that a key steers."""
        raise NotImplementedError

    def show(self, what: Callable[[], None]) -> None:
        if self.complains:
            self.tell("")
        what()

    def complain(self, text: str) -> None:
        """Tell what is wrong, for as long as it is."""
        self.tell(text)
        self.complains = True

    def tell(self, text: str) -> None:
        self.complains = False
        self.told.update(Text(safe(text)))

    def fill(self, heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Show these rows, each with its key; the cursor stays at the row where it is."""
        at, other = self.key(), tuple(heads) != self.heads
        self.table.clear(columns=other)
        if other:
            self.heads = tuple(heads)
            self.table.add_columns(*heads)
        for key, row in rows:
            cells = [
                Text(safe(cell), style=COLOURS.get(cell, "") if number == 1 else "") for number, cell in enumerate(row)
            ]
            self.table.add_row(*cells, key=key)
        if at is not None and at in {key for key, _ in rows}:
            self.table.move_cursor(row=self.table.get_row_index(at))

    def key(self) -> str | None:
        """The key of the row at the cursor."""
        if not self.table.row_count:
            return None
        return self.table.coordinate_to_cell_key(self.table.cursor_coordinate).row_key.value

    def action_steer(self, verb: str) -> None:
        run_id = self.steered()
        if run_id is None:
            return

        def answered(answer: bool | None) -> None:
            if answer:
                self.run_worker(partial(self._steer, verb, run_id), thread=True)

        words = {"resend": "Send again what may be lost of"}
        self.app.push_screen(Question(f"{words.get(verb, verb.capitalize())} run {safe(run_id, 200)}?"), answered)

    def _steer(self, verb: str, run_id: str) -> None:
        try:
            done = getattr(Run(run_id, broker=self.broker), verb)()
            text = f"{verb}: {'done' if done else 'there was nothing to do'}, run {run_id}"
        except ClutchError as error:
            text = str(error)
        self.app.call_from_thread(self.tell, text)
        self.app.call_from_thread(self.look_soon)


class Listed(Looking):
    """All runs of a view."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f", "next_view", "What is listed"),
        Binding("q", "app.quit", "End"),
    ]

    def __init__(self, broker: Broker, interval: float, filters: dict[str, Any]) -> None:
        super().__init__(broker, interval)
        self.filters: dict[str, Any] = filters
        self.view: int = 0
        self.summary: Static = Static()

    def compose(self) -> ComposeResult:
        yield self.summary
        yield self.table
        yield self.told
        yield Footer()

    def look(self) -> Callable[[], None]:
        name, states = VIEWS[self.view]
        if self.filters["state"] is not None:
            name, states = self.filters["state"], (self.filters["state"],)
        by_id: dict[str, RunSummary] = {}  # a run may turn between two looks, and be found by both
        for state in states:
            asked: dict[str, Any] = {**self.filters, "state": state}
            by_id |= {run.run_id: run for run in runs(broker=self.broker, limit=MOST, **asked)}
        found = sorted(by_id.values(), key=lambda run: -run.created)[:MOST]
        return partial(self.show_runs, name, count_runs(self.broker), found)

    def show_runs(self, name: str, counts: dict[str, int], found: Sequence[RunSummary]) -> None:
        text = Text(f"{name}: {len(found):,}   ")
        for state, count in counts.items():
            text.append(f"{state} {count:,}  ", style=COLOURS[state] if count else "bright_black")
        self.summary.update(text)
        self.fill(RUN_HEADS, [(run.run_id, run_row(run)) for run in found])

    def steered(self) -> str | None:
        return self.key()

    def action_next_view(self) -> None:
        self.view = (self.view + 1) % len(VIEWS)
        self.look_soon()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        if event.row_key.value is not None:
            self.app.push_screen(Shown(self.broker, self.interval, event.row_key.value))


class Shown(Looking):
    """One run: its stages, why it fails, and the members of the present stage."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "app.pop_screen", "Back"),
        Binding("q", "app.quit", "End"),
    ]
    DEFAULT_CSS: ClassVar[str] = "Shown VerticalScroll { height: 1fr; } Shown DataTable { height: 1fr; }"

    def __init__(self, broker: Broker, interval: float, run_id: str) -> None:
        super().__init__(broker, interval)
        self.run_id: str = run_id
        self.status: Static = Static()
        self.nested: dict[str, str | None] = {}

    def compose(self) -> ComposeResult:
        with Vertical():
            with VerticalScroll(can_focus=False):
                yield self.status
            yield self.table
        yield self.told
        yield Footer()

    def look(self) -> Callable[[], None]:
        run = Run(self.run_id, broker=self.broker)
        try:
            status = run.status()
            lines = list(shown(run, status, most=max(self.app.size.width - 2, 40)))
            members = list(run.members(limit=MOST))
        except RunNotFound as error:
            return partial(self.show_run, [safe(str(error))], [])
        return partial(self.show_run, lines, members)

    def show_run(self, lines: Sequence[str], members: Sequence[Member]) -> None:
        self.status.update(Text.from_ansi("\n".join(lines)))
        self.nested = {str(member.index): member.run_id for member in members}
        heads, rows = member_table(members, most=self.app.size.width)
        self.fill(heads, [(str(member.index), row) for member, row in zip(members, rows, strict=True)])

    def steered(self) -> str | None:
        return self.run_id

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        nested = self.nested.get(event.row_key.value or "")
        if nested is not None:
            self.app.push_screen(Shown(self.broker, self.interval, nested))


class Top(App[None]):
    """The application of `top`."""

    ENABLE_COMMAND_PALETTE: ClassVar[bool] = False
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c", "quit", show=False, priority=True)]

    def __init__(self, broker: Broker, interval: float, filters: dict[str, Any]) -> None:
        super().__init__()
        self.listed: Listed = Listed(broker, interval, filters)

    def on_mount(self) -> None:
        self.push_screen(self.listed)
