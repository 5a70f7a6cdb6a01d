"""What the shop keeps: its orders. How far an order is, its run says."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    card = models.CharField(max_length=40)
    pieces = models.PositiveIntegerField()
    state = models.CharField(max_length=20, default="new")
    cents = models.PositiveIntegerField(default=0)
