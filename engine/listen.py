"""What --listen may say."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> Address:
    """HOST:PORT or [IPV6]:PORT; port 0 asks for a free one. Raises ValueError with a sentence."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]\s]+)):([0-9]{1,5})", text)
    if match is None:
        raise ValueError(f"{text!r} is not HOST:PORT or [IPV6]:PORT")
    if match[1] is not None:
        try:
            ipaddress.IPv6Address(match[1])
        except ValueError:
            raise ValueError(f"{match[1]!r} is not an IPv6 address") from None
    port = int(match[3])
    if port > 65_535:
        raise ValueError(f"port {port} is more than 65535")
    return Address(match[1] or match[2], port)
