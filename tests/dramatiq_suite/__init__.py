"""Dramatiq's own tests, without this package and with it on every broker: what passes without it passes with it."""
