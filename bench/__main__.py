"""`python -m bench [FILE...]`: measures, all benches or those named. `make bench` calls it."""

import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    arguments = sys.argv[1:] or [str(Path(__file__).resolve().parent)]
    # The table of figures says orders and records a second; pytest-benchmark's own tells how rounds differ.
    sys.exit(pytest.main(["--benchmark-enable", "--benchmark-columns=min,median,max,rounds", *arguments]))
