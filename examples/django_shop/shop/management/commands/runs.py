"""`python manage.py runs --state failed` lists the runs of the shop, newest first."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from dramatiq_clutch import count_runs, runs


class Command(BaseCommand):
    help = "Lists the runs of the shop, newest first."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--state", choices=list(count_runs()))

    def handle(self, **options: Any) -> None:
        for run in runs(state=options["state"]):
            self.stdout.write(f"{run.run_id:<12} {run.state:<10} {run.progress:>4.0%}")
