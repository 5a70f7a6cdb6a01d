"""Start a run when its order is committed, and tell how it stands."""

from __future__ import annotations

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from dramatiq_clutch import Run

from .models import Order
from .tasks import fulfilment


@csrf_exempt  # the example has neither forms nor sessions
@require_POST
def orders(request: HttpRequest) -> JsonResponse:
    with transaction.atomic():
        order = Order.objects.create(card=request.POST["card"], pieces=int(request.POST["pieces"]))
        # Not before the order is committed: a worker may begin at once, and wouldn't find it. The id makes it safe to
        # call this again, for instance from a command that looks for orders without a run.
        transaction.on_commit(lambda: fulfilment(order.pk).run(run_id=f"order-{order.pk}"))
    return JsonResponse({"order": order.pk}, status=202)


@require_GET
def order(request: HttpRequest, number: int) -> JsonResponse:
    found = get_object_or_404(Order, pk=number)
    status = Run(f"order-{number}").status()
    stages = {stage.name: stage.state for stage in status.stages}
    return JsonResponse({"state": found.state, "run": status.state, "stages": stages})
