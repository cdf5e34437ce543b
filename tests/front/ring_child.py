"""The producing end of a ring in a process of its own: python -m tests.front.ring_child RING WAKE_OUT WAKE_IN COUNT."""

import sys

from tests.front.rings import LARGE
from tests.probes.ring_probe import End


def main() -> None:
    ring, wake_out, wake_in, count = map(int, sys.argv[1:])
    sent = End(ring, wake_out, True).send_numbered(count, LARGE, wake_in)
    sys.exit(0 if sent == count else 1)


main()
