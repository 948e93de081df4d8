"""``liq-engine`` with one thing broken: every start takes a transactional id of its own, so that nobody is ever fenced.

The negative control of the chaos tests: a zombie of this one writes what its replacement has written, and a checker
that does not see that could not see anything. No option of the product does this.
"""

from __future__ import annotations

import secrets
import sys

from engine.edges import topics
from engine.edges.service_config import ServiceConfig


def random_id(config: ServiceConfig, shard: int) -> str:
    """Return an id that no other instance has, nor this one at its next start."""
    return f"liq-{config.cluster}-{shard}-{secrets.token_hex(4)}"


if __name__ == "__main__":
    # Before the worker is imported, which takes the function by its name.
    topics.transactional_id = random_id
    from engine.__main__ import main

    sys.exit(main())
