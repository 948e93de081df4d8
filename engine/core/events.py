"""What enters the core and what leaves it.

Every input message is one of the event classes below, decoded and checked for form (types, number syntax,
ranges that need no book). What needs the book - is the symbol known, has the number too many digits for it,
may this leg be used - is checked by the machine when the event is applied. Numbers stay exact decimals
(``units.Number``) until then, because how many digits are allowed is state: a control message can change it.

``ts`` is int64 nanoseconds UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from engine.units import Number

Side = Literal["buy", "sell"]
Leg = Literal["net", "long", "short"]
OrderStatus = Literal["filled", "cancelled", "expired", "rejected"]

REJECT_REASONS = (
    "bad_encoding",
    "too_long",
    "bad_json",
    "duplicate_key",
    "unknown_type",
    "missing_field",
    "bad_type",
    "bad_number",
    "surplus_digits",
    "out_of_range",
    "unknown_symbol",
    "unknown_asset",
    "reserved_account",
    "future_ts",
    "overflow",
    "bad_bucket",
    "bad_leg",
)


class Origin(NamedTuple):
    """Where a message came from: a Kafka position, or file and line (``partition`` is then -1)."""

    topic: str
    partition: int
    offset: int


@dataclass(slots=True)
class Mark:
    """A mark price; ``index_price``, where given, can confirm a mark outside the price band."""

    symbol: str
    price: Number
    ts: int
    index_price: Number | None = None


@dataclass(slots=True)
class AssetPrice:
    """The price of an asset in the valuation currency."""

    asset: str
    price: Number
    ts: int
    source: str | None = None


@dataclass(slots=True)
class Funding:
    """A funding rate: each open position pays qty x multiplier x mark x rate; a long pays a positive rate."""

    symbol: str
    rate: Number
    ts: int


@dataclass(slots=True)
class Fill:
    """A trade of one account; ``qty`` > 0, a positive ``fee`` is paid by the account."""

    fill_id: str
    account: str
    symbol: str
    side: Side
    qty: Number
    price: Number
    ts: int
    fee: Number | None = None
    order_id: str | None = None
    leg: Leg = "net"
    isolated: bool = False


@dataclass(slots=True)
class Conversion:
    """Collateral of the account was sold: ``from_amount`` of one asset became ``to_amount`` of another."""

    conversion_id: str
    account: str
    from_asset: str
    from_amount: Number
    to_asset: str
    to_amount: Number
    ts: int
    order_id: str | None = None


@dataclass(slots=True)
class OrderDone:
    """The venue is finished with an order."""

    order_id: str
    account: str
    status: OrderStatus
    ts: int


@dataclass(slots=True)
class Transfer:
    """A deposit (> 0) or withdrawal (< 0); ``symbol`` names an isolated bucket."""

    transfer_id: str
    account: str
    asset: str
    amount: Number
    ts: int
    reason: str | None = None
    symbol: str | None = None


@dataclass(slots=True)
class Pause:
    """Stop (``pause``) or allow again (``resume``) liquidations of ``scope``: ``all`` or a symbol."""

    scope: str
    resume: bool
    ts: int
    reason: str | None = None


@dataclass(slots=True)
class SetParams:
    """Set fields of the policy, one instrument or one asset from this message on.

    ``fields`` are as in the risk file, still raw JSON values (str, int, bool, list); ``core/params.py`` checks them.
    """

    what: Literal["policy", "instrument", "asset"]
    name: str
    ts: int
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Reject:
    """A message that was refused, with all that is needed to look at it again."""

    reason: str
    detail: str
    payload: bytes


@dataclass(slots=True)
class Ignored:
    """What is no message for this shard: a blank line, a control message to another, a vendor's row of no use to us."""


Event = Mark | AssetPrice | Funding | Fill | Conversion | OrderDone | Transfer | Pause | SetParams
Input = Event | Reject | Ignored


class Message(NamedTuple):
    """One input: where it came from and what it says. A rejected event's ``payload`` is kept for dead letters."""

    origin: Origin
    event: Input
    payload: bytes = b""


class Output(NamedTuple):
    """One output record: ``body`` holds JSON-ready values in field order (numbers as decimal strings).

    ``message`` is the number of the input that caused it, counted from 1.
    """

    topic: str
    key: str
    body: dict[str, Any]
    message: int


ORDERS_TOPIC = "liquidation-orders"
BAD_DEBT_TOPIC = "bad-debt"
EVENTS_TOPIC = "margin-events"
DEAD_LETTERS_TOPIC = "dead-letters"
OUTPUT_TOPICS = (ORDERS_TOPIC, BAD_DEBT_TOPIC, EVENTS_TOPIC, DEAD_LETTERS_TOPIC)

INSURANCE = "$insurance"
FEES = "$fees"
CLEARING = "$clearing"
BAD_DEBT = "$bad_debt"
