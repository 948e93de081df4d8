"""The OpenAPI document of the admin API: which requests there are, and what each may be answered with."""

from __future__ import annotations

from typing import Any

from engine import __version__
from engine.edges.openapi_schemas import COUNT, NAME, SCHEMAS, TEXT, Schema, closed, list_of, of

# status -> what it means, of the problems that more than one request meets
PROBLEMS = {
    400: "A parameter is not what it should be.",
    401: "The bearer token is missing or wrong.",
    403: "The request names a host that is not this machine.",
    404: "There is nothing of that name.",
    413: "The request is too long.",
    415: "The request is not JSON.",
    421: "The shard is served by another process.",
    422: "The question makes no sense, or cannot be answered.",
    429: "The API has used up its share of the engine, or too many streams are open.",
    503: "The shard is not live, or has not been surveyed yet.",
}
# Whatever is asked.
ALWAYS = (401, 403, 429)
LIMIT_MAX = 100

LIMIT = {
    "name": "limit",
    "in": "query",
    "description": "How many of each list.",
    "schema": {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": 20},
}
SHARD = {
    "name": "shard",
    "in": "query",
    "description": "One shard of this process; all of them without it.",
    "schema": {"type": "integer", "minimum": 0, "maximum": 999},
}


def openapi_document() -> dict[str, Any]:
    """Return the document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "liq-engine admin API",
            "version": __version__,
            "description": "Live shards of one process, as they stand between two batches. Decimal strings are exact.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}, {}],
        "paths": paths(),
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {f"Problem{status}": problem(text) for status, text in PROBLEMS.items()},
        },
    }


def paths() -> dict[str, Any]:
    """Return every path with its one method."""
    account = {"name": "account", "schema": NAME, "required": True}
    each: dict[str, Any] = {"parameters": [SHARD], "problems": (400, 421, 503)}
    listed: dict[str, Any] = {"parameters": [SHARD, LIMIT], "problems": (400, 421, 503)}
    symbol = {"name": "symbol", "in": "query", "schema": NAME, "description": "The common factor without it."}
    return {
        "/v1/status": get("status", "What each shard of this process does.", of("Status")),
        "/v1/accounts/{account}": get(
            "account",
            "An account's rows exactly as liq-engine margin prints them, and what is under way.",
            of("Account"),
            parameters=[{**account, "in": "path"}],
            problems=(404, 421, 503),
        ),
        "/v1/accounts": get(
            "accountByName",
            "The same, for names that no path can hold, and for an account called riskiest.",
            of("Account"),
            parameters=[{**account, "in": "query"}],
            problems=(400, 404, 421, 503),
        ),
        "/v1/accounts/riskiest": get(
            "riskiest", "The rows with the highest margin ratio at the last survey.", shards(of("Riskiest")), **listed
        ),
        "/v1/what-if": what_if(),
        "/v1/heatmap": get(
            "heatmap",
            "What would be liquidated at each price, by the last survey.",
            shards(of("Heatmap")),
            parameters=[SHARD, symbol],
            problems=(400, 404, 421, 503),
        ),
        "/v1/insurance-fund": get(
            "insuranceFund", "What the fund holds, and its last changes.", shards(of("Fund")), **listed
        ),
        "/v1/liquidations": get(
            "liquidations",
            "Liquidations and holds under way, and those that ended of late.",
            shards(of("Liquidations")),
            **listed,
        ),
        "/v1/marks": get(
            "marks", "Marks and asset prices in force, and how old they are.", shards(of("Marks")), **each
        ),
        "/v1/events": events(),
    }


def get(
    name: str, summary: str, schema: Schema, *, parameters: list[Schema] | None = None, problems: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Return a path that is asked with GET."""
    return {
        "get": {
            "operationId": name,
            "summary": summary,
            "parameters": parameters or [],
            "responses": {"200": answered(schema), **refused(problems)},
        }
    }


def what_if() -> dict[str, Any]:
    """Return the path of what-ifs."""
    fill = {"type": "fill", "symbol": "BTCUSDT", "side": "sell", "qty": "0.5", "price": "60000"}
    example = {"account": "alice", "changes": [fill]}
    return {
        "post": {
            "operationId": "whatIf",
            "summary": "An account before and after messages that have not come, and what would be sent.",
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": of("Question"), "example": example}},
            },
            "responses": {"200": answered(of("WhatIf")), **refused((400, 413, 415, 421, 422, 503))},
        }
    }


def events() -> dict[str, Any]:
    """Return the path of the event stream."""
    return {
        "get": {
            "operationId": "events",
            "summary": "The outputs of committed batches as they come; gap and dropped name what was missed.",
            "parameters": [
                SHARD,
                {"name": "type", "in": "query", "schema": TEXT, "description": "Types, commas between; all without."},
                {"name": "Last-Event-ID", "in": "header", "schema": TEXT, "description": "Where to go on."},
                {"name": "last_event_id", "in": "query", "schema": TEXT, "description": "The same."},
            ],
            "responses": {
                "200": {
                    "description": "A stream without end. id: shard:seq, event: the type, data: the output.",
                    "content": {"text/event-stream": {"schema": TEXT}},
                },
                **refused((400, 421)),
            },
        }
    }


def shards(schema: Schema) -> Schema:
    """Return the schema of an answer with one document for each shard."""
    return closed({"shards": list_of(schema)})


def answered(schema: Schema) -> dict[str, Any]:
    """Return a response that holds a document."""
    return {"description": "The answer.", "content": {"application/json": {"schema": schema}}}


def refused(statuses: tuple[int, ...]) -> dict[str, Any]:
    """Return the problems that a request may be answered with."""
    return {str(status): {"$ref": f"#/components/responses/Problem{status}"} for status in sorted({*ALWAYS, *statuses})}


def problem(text: str) -> dict[str, Any]:
    """Return the response of a problem."""
    headers = {"Retry-After": {"description": "Seconds, where it makes sense to ask again.", "schema": COUNT}}
    content = {"application/problem+json": {"schema": of("Problem")}}
    return {"description": text, "headers": headers, "content": content}
