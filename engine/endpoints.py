"""Where metrics are served and spans are sent: what the options say."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from engine.listen import parse_address

TRACES_PATH: Final = "/v1/traces"


def check_metrics_listen(text: str, insecure: bool) -> None:
    """What --metrics-listen says. Raises ValueError with a sentence."""
    address = parse_address(text)
    if not address.is_loopback and not insecure:
        raise ValueError(f"{address} is reachable from other machines: say --insecure-listen if that is meant")


def traces_url(endpoint: str) -> str:
    """What --otlp-endpoint says; without a path it is that of all signals. Raises ValueError with a sentence."""
    found = urlsplit(endpoint)
    if found.scheme not in ("http", "https") or not found.hostname:
        raise ValueError(f"{endpoint!r} is not http://HOST:PORT or https://HOST:PORT")
    return endpoint if found.path.strip("/") else endpoint.rstrip("/") + TRACES_PATH
