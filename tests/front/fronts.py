"""The two fronts under one roof: the native one as `everopen serve` has it, and the reference over grpcio.aio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.serving import Server


class ReferenceServer(Server):
    PROGRAM = ("tests.reference_front",)


class TwoWorkers(Server):
    """Half of the connections are at the worker that does not host the shard of what they ask."""

    def __init__(self, data_dir: Path, *arguments: str, **options: Any) -> None:
        super().__init__(data_dir, *arguments, "--workers", "2", "--shards", "2", **options)


FRONTS = [pytest.param(ReferenceServer, id="reference"), pytest.param(Server, id="native")]
