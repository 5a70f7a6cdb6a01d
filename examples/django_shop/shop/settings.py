"""The settings of the shop. What dramatiq-clutch needs is one line: its name, in MIDDLEWARE of DRAMATIQ_BROKER."""

from __future__ import annotations

import os
from pathlib import Path

DRAMATIQ_BROKER = {
    "BROKER": "dramatiq.brokers.redis.RedisBroker",
    "OPTIONS": {"url": os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"), "namespace": "shop"},
    "MIDDLEWARE": [
        "dramatiq.middleware.AgeLimit",
        "dramatiq.middleware.TimeLimit",
        "dramatiq.middleware.Retries",
        "django_dramatiq.middleware.DbConnectionsMiddleware",
        "dramatiq_clutch.ClutchMiddleware",
    ],
}

INSTALLED_APPS = ["django_dramatiq", "shop"]
ROOT_URLCONF = "shop.urls"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": Path(os.environ.get("SHOP_FOLDER", "."), "shop.sqlite3"),
        "OPTIONS": {"timeout": 20},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SECRET_KEY = os.environ.get("SHOP_SECRET", "only for an example that listens on the loopback interface")
ALLOWED_HOSTS = ["127.0.0.1"]
DEBUG = False
TIME_ZONE = "UTC"
USE_TZ = True
