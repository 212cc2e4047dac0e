"""What holds for all tests: they are as patient as the machine is slow."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# scripts/test says yes or no to a commit, so it looks at the same examples each time; new ones are
# found by hand, where somebody can look into them.
settings.register_profile("steady", settings.get_profile("patient"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "patient"))
