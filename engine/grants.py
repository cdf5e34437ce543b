"""What a caller may do, and how much of it: the same words in keys.json, callers.toml and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from engine.errors import EveropenError
from engine.limits import LIMITS, ORDERS_QUOTA_MAX, QUOTA_MAX, SHOPS_OF_CALLER_MAX

SCOPES: Final = frozenset(
    {"orders:write", "orders:read", "catalogue:write", "catalogue:read", "cluster:read", "cluster:admin"}
)
ALL_SHOPS: Final = "*"
# By name, and the most that each may be.
QUOTAS: Final = {
    "orders_per_s": ORDERS_QUOTA_MAX,
    "burst": ORDERS_QUOTA_MAX,
    "bytes_in_flight": QUOTA_MAX,
    "connections": QUOTA_MAX,
}


class IdentityError(EveropenError):
    """A file that says who may call cannot be used; what is wrong with it, and never what it holds that is secret."""


@dataclass(frozen=True)
class Grants:
    scopes: frozenset[str] = frozenset()
    # None: all.
    shops: frozenset[str] | None = None
    # 0: no bound.
    orders_per_s: int = 0
    burst: int = 0
    bytes_in_flight: int = 0
    connections: int = 0

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Grants:
        """Raises ValueError with what is wrong; a field that is not known is wrong too, since it may be misspelt."""
        unknown = fields.keys() - {"scopes", "shops", *QUOTAS}
        if unknown:
            raise ValueError(f"{', '.join(sorted(map(str, unknown)))}: not known")
        scopes = _texts("scopes", fields.get("scopes", []))
        if scopes - SCOPES:
            raise ValueError(f"{', '.join(sorted(scopes - SCOPES))}: no scope; there are {', '.join(sorted(SCOPES))}")
        quotas = {name: fields.get(name, 0) for name in QUOTAS}
        for name, quota in quotas.items():
            if type(quota) is not int or not 0 <= quota <= QUOTAS[name]:
                raise ValueError(f"{name}: a whole number of 0 to {QUOTAS[name]} is expected")
        if quotas["burst"] and not quotas["orders_per_s"]:
            raise ValueError("burst: means nothing without orders_per_s")
        shops = fields.get("shops")
        return cls(scopes, None if shops is None else shops_of(shops), **quotas)

    def as_json(self) -> dict[str, Any]:
        shops = None if self.shops is None else sorted(self.shops)
        return {"scopes": sorted(self.scopes), "shops": shops} | {name: getattr(self, name) for name in QUOTAS}


def shops_of(given: Any) -> frozenset[str] | None:
    """None: all, which is said as ["*"]. Raises ValueError."""
    shops = _texts("shops", given)
    if ALL_SHOPS in shops:
        if len(shops) > 1:
            raise ValueError(f"shops: {ALL_SHOPS} stands alone")
        return None
    if len(shops) > SHOPS_OF_CALLER_MAX:
        raise ValueError(f"shops: at most {SHOPS_OF_CALLER_MAX}")
    for shop in shops:
        if not 1 <= len(shop.encode(errors="surrogatepass")) <= LIMITS["ID_BYTES_MAX"]:
            raise ValueError(f"shops: the id of a shop has 1 to {LIMITS['ID_BYTES_MAX']} bytes")
        if not shop.isprintable():
            raise ValueError("shops: not the id of a shop")
    return shops


def _texts(name: str, given: Any) -> frozenset[str]:
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise ValueError(f"{name}: a list of texts is expected")
    return frozenset(given)


def is_name(text: Any, bytes_max: int) -> bool:
    """Fit to stand in a log line and in metadata."""
    return isinstance(text, str) and text.isprintable() and 1 <= len(text.encode(errors="replace")) <= bytes_max
