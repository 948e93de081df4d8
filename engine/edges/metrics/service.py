"""All metrics of one process: what it is, its event loop, its shards, and the page that shows them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from importlib.metadata import version

from engine import __version__
from engine.core.params import Risk
from engine.core.survey import SurveyReport
from engine.edges.metrics.catalogue import Catalogue
from engine.edges.metrics.exposition import Exposition
from engine.edges.metrics.shard import ShardMetrics
from engine.edges.service_config import ServiceConfig


class Metrics:
    """The metrics of the shards of one process."""

    def __init__(self, config: ServiceConfig, risk: Risk, shards: Iterable[int], config_hash: str) -> None:
        self.catalogue = Catalogue()
        self.shards = {shard: ShardMetrics(self.catalogue, shard, risk, state="starting") for shard in shards}
        self.catalogue.build_info.put(1, __version__, sys.version.split()[0], version("numba"))
        self.catalogue.config_info.put(1, config.cluster, config.delivery, str(config.shards), config_hash[:12])
        self.catalogue.shards.put(config.shards)
        self.catalogue.start_timestamp.put(time.time())
        self.loop_place = self.catalogue.loop_lag.add()
        self.exposition = Exposition(self.catalogue.families)

    def observe_loop_lag(self, seconds: float) -> None:
        """Note how late the event loop came back."""
        self.catalogue.loop_lag.observe(self.loop_place, seconds)

    def put_survey(self, shard: int, report: SurveyReport) -> None:
        """Show what a look at all accounts of a shard has found."""
        self.shards[shard].put_survey(report)
