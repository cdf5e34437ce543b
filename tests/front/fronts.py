"""The two fronts under one roof: the native one as `everopen serve` has it, and the reference over grpcio.aio."""

from __future__ import annotations

import pytest

from engine import _core
from tests.serving import Server


class ReferenceServer(Server):
    PROGRAM = ("tests.reference_front",)


def native_front_available() -> bool:
    return hasattr(_core, "Front")


needs_native = pytest.mark.skipif(not native_front_available(), reason="the native front is not there yet")
FRONTS = [pytest.param(ReferenceServer, id="reference"), pytest.param(Server, id="native", marks=needs_native)]
