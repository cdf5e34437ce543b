"""What every suite shares. A fixture that only one suite uses stands in that suite's own conftest."""

import os

from hypothesis import HealthCheck, settings

# A fixed seed makes a red CI repeatable; a developer's own runs look for new examples, and make fuzz looks longest.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("ordinary", deadline=None)
settings.register_profile("long", max_examples=5_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "ordinary"))
