"""Where metrics are served and spans are sent: what the options say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

from engine.listen import parse_address

TRACES_PATH: Final = "/v1/traces"
# How the standard environment variables begin.
VARIABLES: Final = "OTEL_EXPORTER_OTLP_"


def check_metrics_listen(text: str, insecure: bool) -> None:
    """What --metrics-listen says. Raises ValueError with a sentence."""
    address = parse_address(text)
    if not address.is_loopback and not insecure:
        raise ValueError(f"{address} is reachable from other machines: say --insecure-listen if that is meant")


def traces_url(endpoint: str) -> str:
    """What --otlp-endpoint says; without a path it is that of all signals.

    Raises ValueError with a sentence, without a word of the endpoint, in which there may be a password.
    """
    try:
        found = urlsplit(endpoint)
        is_url = found.scheme in ("http", "https") and bool(found.hostname) and found.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise ValueError("it is not http://HOST:PORT or https://HOST:PORT")
    if "@" in found.netloc:
        raise ValueError(
            "no user or password may stand there, where everybody can read it: OTEL_EXPORTER_OTLP_HEADERS in the"
            " environment has what a collector wants to know, as Authorization=Basic%20..."
        )
    return endpoint if found.path.strip("/") else endpoint.rstrip("/") + TRACES_PATH


def variable(environ: Mapping[str, str], name: str) -> str:
    """Of the standard ones; that of this signal counts before that of all."""
    return environ.get(f"{VARIABLES}TRACES_{name}") or environ.get(f"{VARIABLES}{name}", "")


def headers_of(environ: Mapping[str, str]) -> dict[str, str]:
    """What OTEL_EXPORTER_OTLP_HEADERS says: NAME=VALUE,... with values percent-encoded.

    Raises ValueError, without a word of what may be secret.
    """
    headers = {}
    for number, pair in enumerate(filter(str.strip, variable(environ, "HEADERS").split(",")), 1):
        name, equals, text = (part.strip() for part in pair.partition("="))
        value = unquote(text)
        if not equals or not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"entry {number} of {VARIABLES}HEADERS is not NAME=VALUE")
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"the value of entry {number} of {VARIABLES}HEADERS is no header's")
        headers[name.lower()] = value
    return headers
