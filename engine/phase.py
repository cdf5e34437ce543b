"""How far an engine is, from its start to its end."""

from __future__ import annotations

from enum import IntEnum


class Phase(IntEnum):
    STARTING = 1
    SERVING = 2
    # Calls that were taken are answered, also over the links.
    DRAINING = 3
    # Nobody waits for anybody any more: logs are sealed.
    CLOSING = 4
    # Only those are left that serve the workers.
    ENDING = 5
