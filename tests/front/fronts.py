"""The two fronts under one roof: the native one as `everopen serve` has it, and the reference over grpcio.aio."""

from __future__ import annotations

import pytest

from tests.serving import Server


class ReferenceServer(Server):
    PROGRAM = ("tests.reference_front",)


FRONTS = [pytest.param(ReferenceServer, id="reference"), pytest.param(Server, id="native")]
