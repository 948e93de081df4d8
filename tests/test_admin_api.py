"""The admin API on real sockets, over a service that lives on a broker: its figures are those of the commands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from jsonschema import Draft202012Validator

from engine.core.book import CROSS
from engine.core.distance import FactorSearch, Move, distance_of
from engine.core.ladders import betas_of
from engine.core.shard import Shard
from engine.core.survey import Survey
from engine.core.volatility import DAY_NS
from engine.edges.book_dump import dump_book
from engine.edges.codec import encode
from engine.edges.openapi import openapi_document
from engine.shell.admin import limits
from engine.units import PPM
from tests.brokers.fake import Fake
from tests.service_cases import (
    Body,
    Clock,
    Deployment,
    Running,
    book_of,
    deposit,
    fill,
    in_thread,
    longs,
    mark,
    names_on,
    run_verb,
    running,
)

TOKEN = "correct horse battery staple"
DOCUMENT = openapi_document()
# A machine that is slow for other reasons shall not make the API refuse what these tests ask.
UNLIMITED = {"port": 0, "loop_percent": 100}


class Client:
    """What an operator asks a running service over HTTP; every answer is held against the OpenAPI document."""

    def __init__(self, run: Running, session: aiohttp.ClientSession) -> None:
        self.run = run
        self.session = session

    def shard(self, number: int = 0) -> Shard:
        """Return the state of a live shard."""
        fold = self.run.worker(number).fold
        assert fold is not None
        return fold.shard

    async def get(self, path: str, **query: str | int) -> tuple[int, Any]:
        async with self.session.get(path, params=query) as response:
            return response.status, await self.checked(response, "get")

    async def found(self, path: str, **query: str | int) -> Any:
        """Return what is found, of the one shard there is where the answer is by shards."""
        status, body = await self.get(path, **query)
        assert status == 200, body
        return body["shards"][0] if set(body) == {"shards"} else body

    async def post(self, path: str, body: Body | bytes, content_type: str = "application/json") -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.post(path, data=data, headers={"Content-Type": content_type}) as response:
            return response.status, await self.checked(response, "post")

    async def checked(self, response: aiohttp.ClientResponse, method: str) -> Any:
        """Return a body that is what the document says of such an answer."""
        body = json.loads(await response.read())
        path = template_of(response.url.path)
        described = DOCUMENT["paths"][path][method]["responses"]
        assert str(response.status) in described, f"{path} does not say that it answers {response.status}: {body}"
        check_against(described[str(response.status)], response.content_type, body)
        return body


def template_of(path: str) -> str:
    """Return the path of the document that a request's path is an example of."""
    if path in DOCUMENT["paths"]:
        return path
    return path.rpartition("/")[0] + "/{account}"


def check_against(described: Body, content_type: str, body: Any) -> None:
    """Assert that a body is of the schema that a response has for its type."""
    if "$ref" in described:
        described = DOCUMENT["components"]["responses"][described["$ref"].rpartition("/")[2]]
    schema = {**described["content"][content_type]["schema"], "components": DOCUMENT["components"]}
    Draft202012Validator(schema).validate(body)


@asynccontextmanager
async def asking(deployment: Deployment, *shards: int, token: str | None = None) -> AsyncIterator[Client]:
    """Yield a client of a live service."""
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    async with running(deployment, *shards) as run:
        url = f"http://127.0.0.1:{run.service.admin.port}"
        async with aiohttp.ClientSession(url, headers=headers) as session:
            yield Client(run, session)


@pytest.fixture
async def deployment(fake: Fake, tmp_path: Path) -> Deployment:
    """Return a cluster of one shard with its topics."""
    return await Deployment(tmp_path, fake.bootstrap).write(admin=UNLIMITED).create_topics()


async def test_an_account_is_what_liq_engine_margin_prints_of_it(deployment: Deployment, tmp_path: Path) -> None:
    """Alice is long ten from 100 with 50; at 95.90 she is liquidatable, and the plan is what was ordered."""
    tell, dumped, risk = Clock(), tmp_path / "dumped.json", tmp_path / "risk.toml"
    async with asking(deployment) as client:
        for price in ("100", "97", "95.9"):
            await deployment.feed(*(map(tell, longs("alice")) if price == "100" else [tell(mark(price))]))
            dumped.write_bytes(encode(dump_book(client.shard())))
            code, out, _ = await in_thread(run_verb, "margin", str(dumped), "--risk", str(risk), "--json")
            assert code == 0
            printed = {row["account"]: row for row in json.loads(out)["accounts"]}
            for account in ("alice", "maker"):
                assert (await client.found(f"/v1/accounts/{account}"))["accounts"] == [printed[account]]
        found = await client.found("/v1/accounts/alice")
        (row,), (liquidation,) = found["accounts"], found["liquidations"]
        assert (row["liquidatable"], row["equity"], row["maintenance_margin"]) == (True, "9", "9.59")
        assert [order["qty"] for order in liquidation["waiting"]] == [order["qty"] for order in row["plan"]]
        assert (await client.found("/v1/accounts", account="alice")) == found


async def test_every_document_answers_what_its_schema_says_while_an_account_is_liquidated(
    deployment: Deployment,
) -> None:
    tell = Clock()
    async with asking(deployment) as client:
        await deployment.feed(*map(tell, longs("alice", "bob")), tell(mark("95.9")))
        liquidations = await client.found("/v1/liquidations")
        assert [entry["account"] for entry in liquidations["open"]] == ["alice", "bob"]
        assert (liquidations["open_count"], liquidations["open"][0]["stage"]) == (2, "orders")
        short = await client.found("/v1/liquidations", limit=1)
        assert (len(short["open"]), short["open_count"]) == (1, 2)
        marks = await client.found("/v1/marks")
        assert [(entry["symbol"], entry["price"], entry["age_ms"]) for entry in marks["marks"]] == [
            ("BTCUSDT", "95.9", 0)
        ]
        assert marks["marks"][0]["positions"] == 3
        status = await client.found("/v1/status")
        assert [(shard["state"], shard["liquidations"]) for shard in status["shards"]] == [("live", 2)]


async def test_the_fund_shows_its_changes_newest_first(deployment: Deployment) -> None:
    tell = Clock()
    async with asking(deployment) as client:
        await deployment.feed(tell(deposit("$insurance", "5")), tell(deposit("$insurance", "2")))
        fund = await client.found("/v1/insurance-fund")
        assert (fund["balances"], fund["equity"]) == ({"USDT": "7"}, "7")
        assert [change["change"] for change in fund["changes"]] == ["2", "5"]
        assert [change["change"] for change in (await client.found("/v1/insurance-fund", limit=1))["changes"]] == ["2"]


async def test_an_account_taken_over_leaves_its_end_and_its_bad_debt_to_be_seen(deployment: Deployment) -> None:
    """At 90 alice owes 50: nothing to sell, so the fund takes her ten at 95 and holds them at 90."""
    deployment.write(book=book_of("alice"), admin=UNLIMITED)
    tell = Clock()
    async with asking(deployment) as client:
        await deployment.feed(tell(mark("100")), tell(mark("90")))
        found = await client.found("/v1/liquidations")
        assert [body["outcome"] for body in found["ended"]] == ["taken_over"]
        assert [body["deficit"] for body in found["bad_debt"]] == ["50"]
        fund = await client.found("/v1/insurance-fund")
        assert [(held["symbol"], held["qty"]) for held in fund["positions"]] == [("BTCUSDT", "10")]
        assert (await client.get("/v1/accounts/$insurance"))[0] == 404


async def test_the_riskiest_come_from_the_survey_and_it_says_when_that_was(deployment: Deployment) -> None:
    tell = Clock()
    async with asking(deployment) as client:
        await deployment.feed(*map(tell, longs("alice", "bob")), tell(deposit("bob", "50")), tell(mark("97")))
        report = Survey(client.shard()).advance(1_000)
        client.run.service.statuses[0].survey = report
        found = await client.found("/v1/accounts/riskiest")
        assert [row["account"] for row in found["riskiest"]] == ["alice", "bob", "maker"]
        by_account = (await client.found("/v1/accounts/alice"))["accounts"][0]
        for name in ("equity", "maintenance_margin", "margin_ratio"):
            assert found["riskiest"][0][name] == by_account[name]
        assert sum(found["bands"].values()) == found["rows"] == 3
        assert len((await client.found("/v1/accounts/riskiest", limit=2))["riskiest"]) == 2


async def test_distances_are_those_of_the_core_in_per_cent_and_in_sigmas_once_these_are_known(
    deployment: Deployment, monkeypatch: Any
) -> None:
    """Alice is long ten from 100 with 50: at 95.95959 her 9.5959 are her margin. A day has moved 1 / 99, 1.0101 %.

    The maker is short ten with a million: 100,000 above 100 and somewhat less, which no move of +200 % is.
    """
    monkeypatch.setattr("engine.shell.surveyor.EVERY_S", 3_600)
    tell = Clock()
    async with asking(deployment) as client:
        await deployment.feed(*map(tell, longs("alice")), tell(mark("99")))
        shard = client.shard()
        survey = Survey(shard)
        assert survey.advance(1_000) is not None
        await deployment.feed({**tell(mark("100")), "ts": tell.last_ts + DAY_NS})
        (unmeasured,) = (await client.found("/v1/accounts/alice"))["distances"]
        assert (unmeasured["factor_move"], unmeasured["factor_sigmas"]) == ("-0.0405", None)
        client.run.service.statuses[0].survey = report = survey.advance(1_000)
        assert report is not None
        (found,) = (await client.found("/v1/accounts/alice"))["distances"]
        assert found == {
            "account": "alice",
            "factor_move": "-0.0405",
            "factor_sigmas": "4.009",
            "symbols": [
                {
                    "symbol": "BTCUSDT",
                    "liquidation_price": "95.95959",
                    "move": "-0.040404",
                    "sigmas": "4",
                    "liquidatable": [{"from": None, "to": "95.95959"}],
                }
            ],
        }
        for account in ("alice", "maker"):
            document = await client.found(f"/v1/accounts/{account}")
            (found,), row = document["distances"], shard.book.row_index[account, CROSS]
            search = FactorSearch(shard.book.tables.view, betas_of(shard.book, survey.options))
            distance = distance_of(shard.book, row, search, report.sigmas)
            assert moves(found, "factor_") == figures(distance.factor)
            assert [moves(symbol) for symbol in found["symbols"]] == [figures(one.move) for one in distance.symbols]
            prices = [position["liquidation_price"] for position in document["accounts"][0]["positions"]]
            assert [symbol["liquidation_price"] for symbol in found["symbols"]] == prices
            listed = (await client.found("/v1/accounts/riskiest"))["riskiest"]
            (risky,) = [moves(entry, "factor_") for entry in listed if entry["account"] == account]
            assert risky == moves(found, "factor_")
        assert found["symbols"][0]["liquidatable"] == [{"from": prices[0], "to": None}]
        assert (found["factor_move"], found["factor_sigmas"]) == (None, None)


async def test_a_symbol_of_twice_the_markets_moves_is_half_as_far_from_its_liquidation(deployment: Deployment) -> None:
    """Alice's 95.95959 is 4.04 % away: with a beta of 2 a market that falls by 2.03 % is enough, one by 2.02 % not."""
    tables: Any = {"survey.betas": {"BTCUSDT": "2"}}
    deployment.write(admin=UNLIMITED, **tables)
    tell = Clock()
    async with asking(deployment) as client:
        await deployment.feed(*map(tell, longs("alice")))
        (found,) = (await client.found("/v1/accounts/alice"))["distances"]
        assert (found["factor_move"], found["symbols"][0]["move"]) == ("-0.0203", "-0.040404")


def moves(fields: Body, prefix: str = "") -> tuple[Fraction | None, Fraction | None]:
    """Return a move and its sigmas as an answer says them."""
    move, sigmas = fields[f"{prefix}move"], fields[f"{prefix}sigmas"]
    return None if move is None else Fraction(move), None if sigmas is None else Fraction(sigmas)


def figures(move: Move | None) -> tuple[Fraction | None, Fraction | None]:
    """Return the same of the core's."""
    if move is None:
        return None, None
    return Fraction(move.ppm, PPM), None if move.milli_sigma is None else Fraction(move.milli_sigma, 1_000)


async def test_the_heat_map_counts_whom_a_what_if_at_the_same_price_finds_liquidatable(deployment: Deployment) -> None:
    tell, accounts = Clock(), ("alice", "bob", "maker")
    async with asking(deployment) as client:
        await deployment.feed(*map(tell, longs("alice", "bob")), tell(deposit("bob", "200")))
        client.run.service.statuses[0].survey = Survey(client.shard()).advance(1_000)
        found = await client.found("/v1/heatmap", symbol="BTCUSDT")
        assert found["accounts"][0] > found["accounts"][len(found["edges"]) // 2] == 0
        for edge, count in list(zip(found["edges"], found["accounts"], strict=True))[::10]:
            answers = [
                await client.post("/v1/what-if", {"account": name, "changes": [mark(edge)]}) for name in accounts
            ]
            # What the machine then does about it (a takeover) changes the rows: that it began is what counts.
            begun = [any(body["type"] == "liquidation_started" for body in answer["outputs"]) for _, answer in answers]
            assert sum(begun) == count, edge
        moved = await client.found("/v1/heatmap")
        assert (moved["symbol"], moved["accounts"]) == (None, found["accounts"])
        assert (await client.get("/v1/heatmap", symbol="NONE"))[0] == 404


# --- what-if


async def test_a_what_if_says_what_then_comes_true(deployment: Deployment) -> None:
    tell = Clock()
    async with asking(deployment) as client:
        await deployment.feed(*map(tell, longs("alice")))
        sale = fill("alice", "sell", "4", "99")
        status, answer = await client.post("/v1/what-if", {"account": "alice", "changes": [sale]})
        assert (status, answer["depends_on"]) == (200, [])
        assert answer["before"] == (await client.found("/v1/accounts/alice"))["accounts"]
        await deployment.feed(tell(sale))
        assert answer["after"] == (await client.found("/v1/accounts/alice"))["accounts"]


REFUSED: dict[str, tuple[Any, int, str]] = {
    "no JSON": (b"{", 400, "bad_json"),
    "a list": (b"[]", 400, "bad_json"),
    "a key twice": (b'{"account": "a", "account": "b", "changes": []}', 400, "duplicate_key"),
    "no account": ({"changes": [mark("1")]}, 422, "bad_type"),
    "no changes": ({"account": "alice", "changes": []}, 422, "bad_type"),
    "too many changes": ({"account": "alice", "changes": [mark("1")] * 21}, 422, "bad_type"),
    "a change that is none": ({"account": "alice", "changes": [1]}, 422, "bad_type"),
    "a float": ({"account": "alice", "changes": [{**mark("1"), "price": 1.5}]}, 422, "bad_number"),
    "an account of the engine": ({"account": "$insurance", "changes": [mark("1")]}, 422, "reserved_account"),
    "too long": (b" " * 70_000, 413, "too_long"),
}


@pytest.mark.parametrize(("body", "expected", "code"), REFUSED.values(), ids=REFUSED)
async def test_a_question_that_makes_no_sense_is_a_problem_with_a_code(
    deployment: Deployment, body: Any, expected: int, code: str
) -> None:
    async with asking(deployment) as client:
        status, problem = await client.post("/v1/what-if", body)
        assert (status, problem["status"], problem["code"]) == (expected, expected, code)


async def test_a_question_in_another_format_is_refused(deployment: Deployment) -> None:
    async with asking(deployment) as client:
        assert (await client.post("/v1/what-if", b"{}", "text/plain"))[0] == 415


# --- who is asked


async def test_who_asks_for_what_is_not_there_is_told_why(fake: Fake, tmp_path: Path) -> None:
    """Two shards, of which this process serves one: what the other has is not unknown, it is elsewhere."""
    deployment = await Deployment(tmp_path, fake.bootstrap, shards=2).write(admin=UNLIMITED).create_topics()
    ours, others = names_on(1, 2, 2), names_on(0, 2, 1)
    tell = Clock()
    async with asking(deployment, 1) as client:
        await deployment.send(tell(deposit(ours[0], "5")))
        await deployment.wait_for_batch(1, 1)
        assert (await client.get(f"/v1/accounts/{ours[0]}"))[1]["shard"] == 1
        for path, expected in ((ours[1], 404), (others[0], 421)):
            status, problem = await client.get(f"/v1/accounts/{path}")
            assert (status, problem["status"]) == (expected, expected)
        assert (await client.get("/v1/marks", shard=0))[0] == 421
        assert (await client.get("/v1/marks", shard=1))[0] == 200
        for shard in ("2", "-1", "x", "1" * 30):
            assert (await client.get("/v1/marks", shard=shard))[0] == 400


async def test_an_account_whose_name_no_path_can_hold_is_asked_for_by_query(deployment: Deployment) -> None:
    tell, names = Clock(), ["a/b", "..", "ä ö", "riskiest", "%2F", "a?b#c"]
    async with asking(deployment) as client:
        await deployment.feed(*[tell(deposit(name, "5")) for name in names])
        for name in names:
            assert (await client.found("/v1/accounts", account=name))["account"] == name
        assert (await client.get("/v1/accounts"))[0] == 400


async def test_a_row_that_nobody_has_priced_is_named_with_what_it_waits_for(deployment: Deployment) -> None:
    tell = Clock()
    async with asking(deployment) as client:
        await deployment.feed(*map(tell, longs("alice")[1:]))
        found = await client.found("/v1/accounts/alice")
        assert found["accounts"] == []
        assert found["unpriced"] == [{"account": "alice", "missing": ["marks.BTCUSDT"]}]


async def test_with_a_token_configured_nothing_of_v1_is_told_without_it(deployment: Deployment, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    deployment.write(admin={**UNLIMITED, "token_file": "token"})
    async with asking(deployment, token=TOKEN) as client:
        assert (await client.get("/v1/status"))[0] == 200
        async with aiohttp.ClientSession(client.session._base_url) as stranger:
            for path in DOCUMENT["paths"]:
                async with stranger.request("POST" if "what-if" in path else "GET", path) as response:
                    assert response.status == 401, path


# --- the stream


class Stream:
    """One reader of ``/v1/events``."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.last_id = ""

    async def next(self, *, comments: bool = False) -> tuple[str, Any]:
        """Return type and body of the next event, comments left out unless told."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(20):
            while True:
                line = (await self.response.content.readline()).decode()
                if not line:
                    return "end", None
                name, _, value = line.rstrip("\n").partition(": ")
                if name:
                    fields[name] = value
                    continue
                self.last_id = fields.get("id", self.last_id)
                if "data" in fields:
                    return fields["event"], json.loads(fields["data"])
                if comments:
                    return "comment", None
                fields = {}


@asynccontextmanager
async def streaming(client: Client, headers: dict[str, str] | None = None, **query: str) -> AsyncIterator[Stream]:
    async with client.session.get("/v1/events", headers=headers, params=query) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        stream = Stream(response)
        assert await stream.next(comments=True) == ("comment", None)
        yield stream


async def test_the_stream_is_what_stands_in_the_topics_in_order(deployment: Deployment) -> None:
    tell = Clock()
    async with asking(deployment) as client:
        async with streaming(client) as stream:
            await deployment.feed(*map(tell, longs("alice")), tell(mark("95.9")))
            committed = [body for bodies in (await deployment.outputs()).values() for body in bodies]
            committed.sort(key=lambda body: body["seq"])
            read = [await stream.next() for _ in committed]
            assert read == [(body["type"], body) for body in committed]
            assert stream.last_id == f"0:{committed[-1]['seq']}"
        # Whoever was away goes on where it stopped.
        async with streaming(client, {"Last-Event-ID": "0:2"}) as stream:
            assert (await stream.next())[1] == committed[2]
        async with streaming(client, last_event_id="0:1", type="cancel_orders,bad_debt") as stream:
            assert (await stream.next())[0] == "cancel_orders"


async def test_what_came_before_this_life_is_named_as_a_gap(deployment: Deployment) -> None:
    tell = Clock()
    async with asking(deployment) as client:
        await deployment.feed(*map(tell, longs("alice")), tell(mark("95.9")))
        last = client.run.service.statuses[0].ring.last_seq
    async with asking(deployment) as client, streaming(client, {"Last-Event-ID": "0:1"}) as stream:
        assert await stream.next() == ("gap", {"shard": 0, "first_seq": 2, "last_seq": last})
        await deployment.feed(tell(deposit("$insurance", "1")))
        assert (await stream.next())[1]["seq"] == last + 1


async def test_a_reader_that_the_ring_has_overtaken_is_told_and_cut_off(deployment: Deployment) -> None:
    """One mark starts a liquidation with several outputs in one batch, and the ring holds two: the rest is gone."""
    tell = Clock()
    async with asking(deployment) as client:
        await deployment.feed(*map(tell, longs("alice")))
        ring = client.run.service.statuses[0].ring
        ring.events_max, before = 2, ring.last_seq
        async with streaming(client) as stream:
            await deployment.feed(tell(mark("95.9")))
            lost = {"shard": 0, "first_seq": before + 1, "last_seq": ring.last_seq - 2}
            assert await stream.next() == ("dropped", lost)
            assert await stream.next() == ("end", None)


@pytest.mark.parametrize("place", ["x", "0", "0:", ":1", "0:-1", "0:1,", "0:1;1:2", "0:" + "9" * 50])
async def test_a_place_that_is_none_is_refused(deployment: Deployment, place: str) -> None:
    async with asking(deployment) as client:
        assert (await client.get("/v1/events", last_event_id=place))[0] == 400


async def test_streams_are_counted_and_end_with_the_service(deployment: Deployment, monkeypatch: Any) -> None:
    monkeypatch.setattr("engine.shell.admin.events.STREAMS_MAX", 1)
    async with asking(deployment) as client, streaming(client) as stream:
        assert (await client.get("/v1/events"))[0] == 429
        assert await client.run.drain() == 0
        assert await stream.next() == ("end", None)


# --- the budget


async def test_a_storm_is_turned_away_with_a_time_to_come_back_and_probes_are_not(
    deployment: Deployment, monkeypatch: Any
) -> None:
    monkeypatch.setattr(limits, "DELAY_S", 0.01)
    async with asking(deployment) as client:
        runner = client.run.service.admin.runner
        assert runner is not None
        budget = runner.app[limits.BUDGET]
        budget.charge(1_000.0)
        async with client.session.get("/v1/status") as response:
            assert (response.status, response.content_type) == (429, "application/problem+json")
            assert int(response.headers["Retry-After"]) >= 1
        for path in ("/livez", "/readyz"):
            async with client.session.get(path) as response:
                assert response.status == 200
        budget.left_s = budget.burst_s
        assert (await client.get("/v1/status"))[0] == 200
