"""What the documents of the admin API hold, as JSON Schema: every object is closed, every field named is there.

Optional are only the fields listed after ``optional``. Numbers that are money, prices, quantities or rates are decimal
strings, as in every message of the engine; times are nanoseconds.
"""

from __future__ import annotations

from typing import Any

from engine.core.events import REJECT_REASONS
from engine.core.survey import BANDS
from engine.edges.what_if import CHANGES_MAX

Schema = dict[str, Any]

DECIMAL_PATTERN = r"^-?(0|[1-9][0-9]*)(\.[0-9]*[1-9])?$"


def of(name: str) -> Schema:
    """Return a reference to a named schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def closed(fields: dict[str, Schema], *, optional: dict[str, Schema] | None = None, about: str = "") -> Schema:
    """Return the schema of an object that has these fields and no others."""
    described = {"description": about} if about else {}
    return {
        "type": "object",
        **described,
        "properties": {**fields, **(optional or {})},
        "required": list(fields),
        "additionalProperties": False,
    }


def list_of(item: Schema) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": item}


def or_null(schema: Schema) -> Schema:
    """Return a schema that null meets too."""
    return {"anyOf": [schema, {"type": "null"}]}


def one_of(*words: str) -> Schema:
    """Return the schema of a word of a closed list."""
    return {"type": "string", "enum": list(words)}


TEXT: Schema = {"type": "string"}
NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 64}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
DECIMAL = of("Decimal")
TS = of("Ts")
SIDE = one_of("buy", "sell")
LEG = one_of("net", "long", "short")
REASON = one_of("stale_mark", "price_band", "paused", "warming_up", "flow_budget")
SHARD_AND_TIME: dict[str, Schema] = {"shard": COUNT, "ts": TS}
SUBJECT: dict[str, Schema] = {"account": NAME}
BUCKET: dict[str, Schema] = {"bucket": NAME}

CLOSE = closed(
    {
        "symbol": NAME,
        "side": SIDE,
        "qty": DECIMAL,
        "limit_price": or_null(DECIMAL),
        "bankruptcy_price": or_null(DECIMAL),
        "stage": one_of("partial", "full", "takeover"),
    }
)
SALE = closed({"asset": NAME, "amount": DECIMAL, "for_asset": NAME, "limit_price": DECIMAL})
POSITION = closed(
    {
        "symbol": NAME,
        "leg": LEG,
        "qty": DECIMAL,
        "entry_price": or_null(DECIMAL),
        **dict.fromkeys(("notional", "unrealised_pnl", "maintenance_margin", "initial_margin"), DECIMAL),
        "liquidation_price": or_null(DECIMAL),
        "bankruptcy_price": or_null(DECIMAL),
    }
)
ROW = closed(
    {
        **SUBJECT,
        **dict.fromkeys(("equity", "wallet_value", "unrealised_pnl"), DECIMAL),
        **dict.fromkeys(("maintenance_margin", "initial_margin"), DECIMAL),
        "margin_ratio": or_null(DECIMAL),
        "liquidatable": FLAG,
        "plan": list_of({"anyOf": [CLOSE, SALE]}),
        "positions": list_of(of("Position")),
    },
    optional={**BUCKET, "certificate": or_null({"type": "object"})},
    about="One row of liq-engine margin: an account's cross margin, or one isolated bucket of it.",
)
ORDER = closed(
    {
        "order_id": TEXT,
        "due": TS,
        "symbol": NAME,
        "leg": LEG,
        "side": SIDE,
        "qty": DECIMAL,
        "left": DECIMAL,
        "limit_price": DECIMAL,
    }
)
WAITING_SALE = closed({"order_id": TEXT, "due": TS, "asset": NAME, "for_asset": NAME, "amount": DECIMAL})
LIQUIDATION = closed(
    {
        "liquidation_id": TEXT,
        **SUBJECT,
        "stage": one_of("orders", "held", "taker"),
        "equity": DECIMAL,
        "maintenance_margin": DECIMAL,
        "orders_sent": COUNT,
        "attempts": COUNT,
        "closed_notional": DECIMAL,
        "cost": DECIMAL,
        "waiting": list_of({"anyOf": [ORDER, WAITING_SALE]}),
    },
    optional=BUCKET,
)
HOLD = closed({**SUBJECT, "reason": REASON, "symbol": or_null(NAME), "since": TS}, optional=BUCKET)
OUTPUT: Schema = {
    "type": "object",
    "properties": {"type": TEXT, "ts": TS},
    "required": ["type", "ts"],
    "description": "An output message, with the fields of its type (README, Messages out).",
}
EXPLAINED = closed(
    {
        **SUBJECT,
        "trigger": one_of("at_or_below", "below"),
        "valuation": TEXT,
        "marks": list_of(closed({"symbol": NAME, "price": DECIMAL, "ts": TS})),
        "asset_prices": list_of(closed({"asset": NAME, "price": DECIMAL, "ts": TS})),
        "positions": list_of(
            closed(
                {
                    "symbol": NAME,
                    "leg": LEG,
                    "qty": DECIMAL,
                    "entry_price": or_null(DECIMAL),
                    **dict.fromkeys(("cost", "notional", "tier_floor", "tier_rate", "deduction"), DECIMAL),
                    **dict.fromkeys(("unrealised_pnl", "maintenance_margin"), DECIMAL),
                }
            )
        ),
        "collateral": list_of(
            closed(
                {
                    "asset": NAME,
                    "balance": DECIMAL,
                    "weights": list_of(list_of(DECIMAL)),
                    "value": DECIMAL,
                    "decimals": COUNT,
                    "slippage": DECIMAL,
                }
            )
        ),
    },
    optional=BUCKET,
    about="What a row's figures are made of; amounts of a position are in its settlement asset.",
)
MOVE = {"move": or_null(DECIMAL), "sigmas": or_null(DECIMAL)}
FACTOR_MOVE = {f"factor_{name}": schema for name, schema in MOVE.items()}
DISTANCE = closed(
    {
        **SUBJECT,
        **FACTOR_MOVE,
        "symbols": list_of(
            closed(
                {
                    "symbol": NAME,
                    "liquidation_price": or_null(DECIMAL),
                    **MOVE,
                    "liquidatable": list_of(closed({"from": or_null(DECIMAL), "to": or_null(DECIMAL)})),
                }
            )
        ),
    },
    optional=BUCKET,
    about=(
        "How far prices may move until the row is liquidatable: all marks together (factor_move), and each symbol "
        "alone, as a fraction of its price; in sigmas, by a day's volatility, null until the survey has seen enough. "
        "liquidatable has all stretches of the symbol's marks that do it; an end that is null is open."
    ),
)
ACCOUNT = closed(
    {
        **SUBJECT,
        **SHARD_AND_TIME,
        "accounts": list_of(of("Row")),
        "explained": list_of(of("Explained")),
        "distances": list_of(of("Distance")),
        "unpriced": list_of(closed({**SUBJECT, "missing": list_of(TEXT)}, optional=BUCKET)),
        "liquidations": list_of(of("Liquidation")),
        "held": list_of(of("Hold")),
    }
)
PRICE = {
    "price": or_null(DECIMAL),
    "price_ts": TS,
    "age_ms": or_null({"type": "integer"}),
    "stale": FLAG,
    "seen": FLAG,
    "pending": or_null(DECIMAL),
}
MARKS = closed(
    {
        **SHARD_AND_TIME,
        "marks": list_of(closed({"symbol": NAME, **PRICE, "positions": COUNT, "paused": FLAG})),
        "asset_prices": list_of(closed({"asset": NAME, **PRICE, "fixed": FLAG})),
    }
)
FUND = closed(
    {
        **SHARD_AND_TIME,
        "balances": {"type": "object", "additionalProperties": DECIMAL},
        "equity": or_null(DECIMAL),
        "floor": DECIMAL,
        "positions": list_of(
            closed(
                {
                    "symbol": NAME,
                    "qty": DECIMAL,
                    "entry_price": or_null(DECIMAL),
                    "notional": DECIMAL,
                    "unrealised_pnl": DECIMAL,
                }
            )
        ),
        "changes": list_of(of("Output")),
    }
)
LIQUIDATIONS = closed(
    {
        **SHARD_AND_TIME,
        "open_count": COUNT,
        "open": list_of(of("Liquidation")),
        "held_count": COUNT,
        "held": list_of(of("Hold")),
        "ended": list_of(of("Output")),
        "bad_debt": list_of(of("Output")),
    }
)
SURVEY = {**SHARD_AND_TIME, "survey_began": TS, "survey_ended": TS}
RISKIEST = closed(
    {
        **SURVEY,
        "rows": COUNT,
        "unpriced": COUNT,
        "bands": closed(dict.fromkeys(BANDS, COUNT)),
        "riskiest": list_of(
            closed(
                {
                    **SUBJECT,
                    "equity": DECIMAL,
                    "maintenance_margin": DECIMAL,
                    "margin_ratio": or_null(DECIMAL),
                    **FACTOR_MOVE,
                },
                optional=BUCKET,
            )
        ),
    }
)
HEATMAP = closed(
    {
        **SURVEY,
        "symbol": or_null(NAME),
        "left_out": COUNT,
        **{name: list_of(DECIMAL) for name in ("edges", "moves", "long", "short")},
        "accounts": list_of(COUNT),
        "ladder": list_of(closed({"long": DECIMAL, "short": DECIMAL, "accounts": {"type": "integer"}})),
    }
)
STATUS_OF_SHARD = closed(
    {
        "shard": COUNT,
        "state": one_of("starting", "following", "recovering", "live", "draining", "stopped", "halted"),
        **dict.fromkeys(("records", "batches", "seq"), COUNT),
    },
    optional={
        "ts": TS,
        "config_hash": TEXT,
        **dict.fromkeys(("batch", "policy_version", "rows", "symbols", "liquidations", "held"), COUNT),
        "paused": {"type": "object", "additionalProperties": TEXT},
    },
    about="The optional fields are those of a live shard.",
)
STATUS = closed(
    {
        "version": TEXT,
        "cluster": TEXT,
        "shards_count": COUNT,
        "delivery": one_of("exactly_once", "at_least_once"),
        "shards": list_of(STATUS_OF_SHARD),
    }
)
CHANGE: Schema = {
    "type": "object",
    "properties": {
        "type": one_of(
            *("mark", "asset_price", "funding", "fill", "conversion", "order_done", "transfer"),
            *("pause", "resume", "set_instrument", "set_asset", "set_policy"),
        )
    },
    "required": ["type"],
    "description": "A message of the log (README, Messages in). account, ids and ts may be left out.",
}
QUESTION = closed(
    {"account": NAME, "changes": {"type": "array", "items": of("Change"), "minItems": 1, "maxItems": CHANGES_MAX}}
)
OUTCOME = closed(
    {"type": TEXT, "outcome": one_of("accepted", "duplicate", "ignored", "rejected")},
    optional={"reason": one_of(*REJECT_REASONS), "detail": TEXT},
)
WHAT_IF = closed(
    {
        **SUBJECT,
        **SHARD_AND_TIME,
        "changes": list_of(OUTCOME),
        "before": list_of(of("Row")),
        "after": list_of(of("Row")),
        "outputs": list_of(of("Output")),
        "depends_on": list_of(one_of("winners", "others")),
    }
)
PROBLEM = closed(
    {"type": TEXT, "title": TEXT, "status": {"type": "integer"}, "detail": TEXT},
    optional={"code": TEXT},
    about="RFC 9457. code is for programs, detail for people.",
)

SCHEMAS: dict[str, Schema] = {
    "Decimal": {"type": "string", "pattern": DECIMAL_PATTERN, "description": "Exact, in its shortest form."},
    "Ts": {"type": "integer", "description": "Nanoseconds UTC; the clock of a shard is 0 until its first message."},
    "Position": POSITION,
    "Row": ROW,
    "Liquidation": LIQUIDATION,
    "Hold": HOLD,
    "Output": OUTPUT,
    "Explained": EXPLAINED,
    "Distance": DISTANCE,
    "Account": ACCOUNT,
    "Marks": MARKS,
    "Fund": FUND,
    "Liquidations": LIQUIDATIONS,
    "Riskiest": RISKIEST,
    "Heatmap": HEATMAP,
    "Status": STATUS,
    "Change": CHANGE,
    "Question": QUESTION,
    "WhatIf": WHAT_IF,
    "Problem": PROBLEM,
}
