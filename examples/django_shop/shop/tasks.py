"""The shop's jobs, which `rundramatiq` finds by this module's name; and the clutch that orders their work."""

from __future__ import annotations

from typing import Any

import dramatiq

from dramatiq_clutch import Clutch, previous_results

from .models import Order

PRICE = 250


@dramatiq.actor
def reserve(order: int) -> int:
    return int(Order.objects.get(pk=order).pieces)


@dramatiq.actor
def price(order: int) -> int:
    return PRICE * int(Order.objects.get(pk=order).pieces)


@dramatiq.actor(throws=PermissionError, max_retries=3)  # a card that is refused once is refused again
def charge(order: int) -> int:
    _pieces, cents = previous_results()
    if Order.objects.get(pk=order).card == "stolen":
        raise PermissionError("the card was refused")
    return int(cents)


@dramatiq.actor
def confirm(order: int, cents: int) -> str:
    Order.objects.filter(pk=order).update(state="paid", cents=cents)
    return f"order {order}: {cents / 100:.2f}"


@dramatiq.actor
def give_up(order: int, status: dict[str, Any]) -> None:
    Order.objects.filter(pk=order).update(state="refused")


def fulfilment(order: int) -> Clutch:
    return (
        Clutch(name="order", on_failed=give_up.message_with_options(args=(order,)))
        .parallel(reserve.message(order), price.message(order), name="prepare")
        .then(charge.message(order), name="charge")
        .then(confirm.message_with_options(args=(order,)), pipe=True, name="confirm")
    )
