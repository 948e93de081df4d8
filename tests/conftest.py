"""Which hypothesis settings the tests run under, and the brokers that some of them need (``brokers/fixtures.py``).

The profile ``dev`` looks for new cases, ``ci`` (chosen where the variable ``CI`` is set) derives its cases from the
test itself, so that a red run is the change's doing and not the dice's. ``dev`` draws afresh each time and keeps what
failed. Both print the line that reproduces a failure. No deadline: the first call of a kernel compiles it.
``--hypothesis-profile`` overrides.
"""

from __future__ import annotations

import os

from hypothesis import settings

from tests.brokers.fixtures import broker, fake, kafka, late_fake, own_kafka, pytest_terminal_summary

__all__ = ["broker", "fake", "kafka", "late_fake", "own_kafka", "pytest_terminal_summary"]

settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True, database=None)
settings.register_profile("dev", deadline=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
