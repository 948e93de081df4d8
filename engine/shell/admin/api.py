"""What the admin API answers about live shards: accounts, what-ifs, liquidations, the fund, the market, heat-maps.

An answer is made of a shard's state between two batches, which may be a few milliseconds ahead of what is committed.
Making one holds the event loop for less than a millisecond; where it takes several steps, decisions go in between.
All answers are bounded: an account, the symbols, at most ``LIMIT_MAX`` of whatever there are many of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from engine import __version__
from engine.core.shard import Shard
from engine.core.survey import SurveyReport
from engine.core.volatility import Sigmas
from engine.edges.codec import load_json
from engine.edges.feed import Ring
from engine.edges.openapi import LIMIT_MAX, openapi_document
from engine.edges.views import (
    account_document,
    fund_document,
    heatmap_document,
    liquidations_document,
    marks_document,
    riskiest_document,
)
from engine.edges.what_if import CHANGES_MAX, WhatIfError, what_if_turns
from engine.shell.admin.answers import RETRY, answering, number_in, object_in, refuse, text_in
from engine.shell.admin.limits import BUDGET, Budget
from engine.shell.admin.replies import document
from engine.shell.admin.served import Served
from engine.shell.kafka import partition_of

LIMIT = 20


class Api:
    """The live shards of a process, as requests ask for them."""

    def __init__(self, service: Served, budget: Budget) -> None:
        self.service = service
        self.budget = budget

    # Which shard.

    def live(self, number: int) -> Shard:
        """Return the state of a live shard; raises RefusedError where it is another process's, or not live."""
        status = self.service.statuses.get(number)
        if status is None:
            raise refuse(421, f"shard {number} is served by another process", code="other_process")
        worker = self.service.workers.get(number)
        if status.state != "live" or worker is None or worker.fold is None:
            raise refuse(503, f"shard {number} is {status.state}", code="not_live", headers=RETRY)
        return worker.fold.shard

    def shard_of(self, account: str) -> Shard:
        """Return the shard that an account belongs to, known or not."""
        return self.live(partition_of(account, self.service.config.shards))

    def asked_for(self, request: web.Request) -> list[Shard]:
        """Return the shard that a request names, or all that are live; raises RefusedError where none is."""
        if "shard" in request.query:
            return [self.live(number_in(request, "shard", 0, high=self.service.config.shards - 1))]
        live = [number for number, status in self.service.statuses.items() if status.state == "live"]
        if not live:
            raise refuse(503, "no shard of this process is live", code="not_live", headers=RETRY)
        return [self.live(number) for number in live]

    def report(self, shard: Shard) -> SurveyReport:
        """Return the last survey of a shard; raises RefusedError before the first one is done."""
        found = self.service.statuses[shard.number].survey
        if found is None:
            raise refuse(503, f"shard {shard.number} has not been surveyed yet", code="no_survey", headers=RETRY)
        return found

    def sigmas(self, shard: Shard) -> Sigmas:
        """Return the volatilities that the last survey of a shard has seen; none are known before it."""
        found = self.service.statuses[shard.number].survey
        return Sigmas() if found is None else found.sigmas

    async def each(self, shards: list[Shard], view: Callable[[Shard], dict[str, Any]]) -> web.Response:
        """Return one document for each shard, decisions in between."""
        found = []
        for shard in shards:
            with self.budget.charged():
                found.append(view(shard))
            await asyncio.sleep(0)
        return document({"shards": found})

    # What is asked.

    async def account(self, request: web.Request) -> web.Response:
        """Answer ``/v1/accounts/{account}``, and ``/v1/accounts?account=`` for names that no path can hold."""
        account = request.match_info.get("account") or text_in(request, "account")
        shard = self.shard_of(account)
        with self.budget.charged():
            found = account_document(shard, account, self.service.config.survey.options(), self.sigmas(shard))
        if found is None:
            raise refuse(404, f"account {account!r} is not known to shard {shard.number}", code="unknown_account")
        return document(found)

    async def riskiest(self, request: web.Request) -> web.Response:
        """Answer ``/v1/accounts/riskiest``."""
        limit = number_in(request, "limit", LIMIT, low=1, high=LIMIT_MAX)
        return await self.each(
            self.asked_for(request), lambda shard: riskiest_document(shard, self.report(shard), limit=limit)
        )

    async def heatmap(self, request: web.Request) -> web.Response:
        """Answer ``/v1/heatmap``: of one symbol, or without one of the common factor."""
        symbol = request.query.get("symbol")

        def view(shard: Shard) -> dict[str, Any]:
            report = self.report(shard)
            heatmap = report.factor if symbol is None else report.heatmaps.get(symbol)
            if symbol is not None and symbol not in shard.book.symbol_index:
                raise refuse(404, f"symbol {symbol!r} is not known", code="unknown_symbol")
            if heatmap is None:
                what = "the common factor" if symbol is None else symbol
                raise refuse(404, f"nobody held a priced position in {what} at the last survey", code="no_heatmap")
            return heatmap_document(shard, report, heatmap)

        return await self.each(self.asked_for(request), view)

    async def marks(self, request: web.Request) -> web.Response:
        """Answer ``/v1/marks``."""
        return await self.each(self.asked_for(request), marks_document)

    async def fund(self, request: web.Request) -> web.Response:
        """Answer ``/v1/insurance-fund``."""
        limit = number_in(request, "limit", LIMIT, low=1, high=LIMIT_MAX)

        def view(shard: Shard) -> dict[str, Any]:
            return {**fund_document(shard), "changes": self.kept(shard, "insurance_fund", limit)}

        return await self.each(self.asked_for(request), view)

    async def liquidations(self, request: web.Request) -> web.Response:
        """Answer ``/v1/liquidations``."""
        limit = number_in(request, "limit", LIMIT, low=1, high=LIMIT_MAX)

        def view(shard: Shard) -> dict[str, Any]:
            return {
                **liquidations_document(shard, limit=limit),
                "ended": self.kept(shard, "liquidation_ended", limit),
                "bad_debt": self.kept(shard, "bad_debt", limit),
            }

        return await self.each(self.asked_for(request), view)

    def kept(self, shard: Shard, kind: str, limit: int) -> list[dict[str, Any]]:
        """Return the last outputs of a kind that were committed since the shard came to life here, newest first."""
        kept = self.ring(shard).kept[kind]
        return [load_json(event.data) for event in list(kept)[: -limit - 1 : -1]]

    def ring(self, shard: Shard) -> Ring:
        """Return the outputs that a shard has committed of late."""
        return self.service.statuses[shard.number].ring

    async def what_if(self, request: web.Request) -> web.Response:
        """Answer ``/v1/what-if``."""
        account, changes = question_of(await object_in(request))
        shard = self.shard_of(account)
        turns = what_if_turns(shard, account, changes)
        while True:
            # Reading the question was a turn of the loop, and each step of the answer is one.
            await asyncio.sleep(0)
            with self.budget.charged():
                try:
                    next(turns)
                except StopIteration as done:
                    return document(done.value)
                except WhatIfError as error:
                    raise refuse(422, error.detail, code=error.code) from error

    async def status(self, _: web.Request) -> web.Response:
        """Answer ``/v1/status``."""
        return document(
            {
                "version": __version__,
                "cluster": self.service.config.cluster,
                "shards_count": self.service.config.shards,
                "delivery": self.service.config.delivery,
                "shards": [self.shard_status(number) for number in self.service.statuses],
            }
        )

    def shard_status(self, number: int) -> dict[str, Any]:
        """Return what a shard says about itself, and how much there is of everything where it is live."""
        status, worker = self.service.statuses[number], self.service.workers.get(number)
        found: dict[str, Any] = {
            "shard": number,
            "state": status.state,
            "records": status.records,
            "batches": status.batches,
            "seq": status.ring.last_seq,
        }
        if status.state != "live" or worker is None or worker.fold is None:
            return found
        shard = worker.fold.shard
        book = shard.book
        return {
            **found,
            "ts": shard.clock,
            "batch": worker.fold.position.batch,
            "config_hash": worker.origin.config_hash,
            "policy_version": book.policy_version,
            "rows": len(book.accounts),
            "symbols": len(book.instruments),
            "liquidations": len(shard.episodes),
            "held": len(shard.holds),
            "paused": dict(shard.paused),
        }


def question_of(body: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """Return the account and the changes of a what-if; raises RefusedError."""
    account, changes = body.get("account"), body.get("changes")
    if not isinstance(account, str) or not 0 < len(account.encode()) <= 64:
        raise refuse(422, "account: must be a string of 1 to 64 bytes", code="bad_type")
    if not isinstance(changes, list) or not 0 < len(changes) <= CHANGES_MAX:
        raise refuse(422, f"changes: must be a list of 1 to {CHANGES_MAX} messages", code="bad_type")
    if not all(isinstance(change, dict) for change in changes):
        raise refuse(422, "changes: each must be a message, an object with its type", code="bad_type")
    return account, changes


def add_routes(app: web.Application, service: Served) -> None:
    """Add the routes of ``/v1`` and the document that describes them."""
    api = Api(service, app[BUDGET])
    described = openapi_document()

    async def openapi(_: web.Request) -> web.Response:
        return document(described)

    app.router.add_get("/openapi.json", openapi)
    # Before the account of that name.
    app.router.add_get("/v1/accounts/riskiest", answering(api.riskiest))
    app.router.add_get("/v1/accounts/{account}", answering(api.account))
    app.router.add_get("/v1/accounts", answering(api.account))
    app.router.add_post("/v1/what-if", answering(api.what_if))
    app.router.add_get("/v1/heatmap", answering(api.heatmap))
    app.router.add_get("/v1/insurance-fund", answering(api.fund))
    app.router.add_get("/v1/liquidations", answering(api.liquidations))
    app.router.add_get("/v1/marks", answering(api.marks))
    app.router.add_get("/v1/status", answering(api.status))
