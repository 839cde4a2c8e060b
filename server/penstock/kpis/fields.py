"""What events and sessions are known by: the fields that metrics read, and the dimensions that split and filter them.

Both are SQL over silver_events or sessions. A property's key is the client's, so it is always bound, never written.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

PROPERTIES = "properties."
EXPERIMENT = "experiment."
KEY_BYTES_MAX = 128  # as ingest takes them

# By what a client says of itself. A tablet on Android does not call itself mobile; a phone does.
_DEVICE = """multiIf(
        %(said)s != '', lower(%(said)s),
        match(user_agent, '(?i)bot|crawl|spider|slurp|headless'), 'bot',
        match(user_agent, '(?i)ipad|tablet|kindle|silk/'), 'tablet',
        match(user_agent, '(?i)mobi|iphone|ipod'), 'mobile',
        match(user_agent, '(?i)android'), 'tablet',
        match(user_agent, '(?i)windows nt|macintosh|x11|cros|linux'), 'desktop',
        ''
    )"""


class Source(StrEnum):
    """What is counted."""

    EVENTS = "events"
    SESSIONS = "sessions"


class Kind(StrEnum):
    """What a field holds."""

    TEXT = "a text"
    NUMBER = "a number"
    FLAG = "yes or no"
    PROPERTY = "a property"  # a text, read as a number where one is asked for


@dataclass(frozen=True, slots=True)
class Field:
    """One field of events or sessions.

    `sql` is empty for a property, which is read by its key, and for a variant, until its experiment is joined.
    """

    source: Source
    name: str
    kind: Kind
    sql: str = ""
    nullable: bool = False  # whether an event may be without it
    money: bool = False


@dataclass(slots=True)
class Bindings:
    """The parameters of one statement, as they come up while it is written."""

    values: dict[str, Any] = field(default_factory=dict)

    def add(self, value: Any, sql_type: str) -> str:
        """The placeholder of a value; one that is there already is bound once."""
        for name, known in self.values.items():
            if type(known) is type(value) and known == value:
                return f"{{{name}:{sql_type}}}"
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f"{{{name}:{sql_type}}}"

    def text(self, value: str) -> str:
        """The placeholder of a text."""
        return self.add(value, "String")


def _of(source: Source, *fields: Field) -> Mapping[str, Field]:
    assert all(each.source is source for each in fields)
    return {each.name: each for each in fields}


def _event(name: str, sql: str, kind: Kind = Kind.TEXT, *, nullable: bool = False, money: bool = False) -> Field:
    return Field(Source.EVENTS, name, kind, sql, nullable, money)


def _session(name: str, sql: str, kind: Kind = Kind.TEXT) -> Field:
    return Field(Source.SESSIONS, name, kind, sql)


FIELDS: Mapping[Source, Mapping[str, Field]] = {
    Source.EVENTS: _of(
        Source.EVENTS,
        _event("event_type", "event_type"),
        _event("site", "site_id"),
        _event("product", "product_id"),
        # Purchases without an order id are an order each.
        _event("order", "if(order_id != '', order_id, toString(event_id))"),
        _event("visitor", "visitor"),
        _event("user", "user_id"),
        _event("session", "session_id"),
        _event("currency", "currency"),
        _event("path", "path"),
        _event("referrer", "domain(referrer)"),
        _event("source", "utm_source"),
        _event("medium", "utm_medium"),
        _event("campaign", "utm_campaign"),
        _event("term", "utm_term"),
        _event("content", "utm_content"),
        _event("country", "properties['country']"),
        _event("device", _DEVICE % {"said": "properties['device']"}),
        _event("price", "price", Kind.NUMBER, nullable=True, money=True),
        _event("quantity", "quantity", Kind.NUMBER),
        _event("amount", "amount", Kind.NUMBER, money=True),
    ),
    Source.SESSIONS: _of(
        Source.SESSIONS,
        _session("site", "site_id"),
        _session("visitor", "visitor"),
        _session("source", "utm_source"),
        _session("medium", "utm_medium"),
        _session("campaign", "utm_campaign"),
        _session("landing_page", "landing_page"),
        _session("exit_page", "exit_page"),
        _session("seconds", "dateDiff('microsecond', start_time, end_time) / 1e6", Kind.NUMBER),
        _session("page_views", "page_views", Kind.NUMBER),
        _session("events", "events", Kind.NUMBER),
        _session("converted", "converted", Kind.FLAG),
    ),
}
# Those of events that gold_visits has, over its columns.
VISIT_FIELDS: Mapping[str, Field] = _of(
    Source.EVENTS,
    *(FIELDS[Source.EVENTS][name] for name in ("site", "source", "medium", "campaign", "currency")),
    _event("country", "country"),
    _event("device", _DEVICE % {"said": "device"}),
)
# Dimensions by their names; those of a session are as of its beginning.
DIMENSIONS: Mapping[Source, tuple[str, ...]] = {
    Source.EVENTS: (
        *("site", "event_type", "product", "source", "medium", "campaign", "device", "country", "currency", "path"),
        "referrer",
    ),
    Source.SESSIONS: ("site", "source", "medium", "campaign"),
}
ANY_PROPERTY = f"{PROPERTIES}<key>"
ANY_EXPERIMENT = f"{EXPERIMENT}<name>"
_EXPERIMENT_NAME = re.compile("[a-z][a-z0-9_-]{0,63}")


def dimensions_of(sources: frozenset[Source]) -> tuple[str, ...]:
    """The dimensions that all of `sources` have, as the catalogue shows them."""
    shared = [name for name in DIMENSIONS[Source.EVENTS] if all(name in DIMENSIONS[each] for each in sources)]
    return (*shared, *(() if Source.SESSIONS in sources else (ANY_PROPERTY,)), ANY_EXPERIMENT)


def experiment_of(name: str) -> str:
    """The experiment whose variants a dimension is; empty where it is another dimension."""
    experiment = name.removeprefix(EXPERIMENT)
    return experiment if experiment != name and _EXPERIMENT_NAME.fullmatch(experiment) else ""


def dimension(source: Source, name: str) -> Field | None:
    """The field behind a dimension; None where the source does not have it."""
    if name in DIMENSIONS[source]:
        return FIELDS[source][name]
    if experiment_of(name):
        return Field(source, name, Kind.TEXT)
    key = name.removeprefix(PROPERTIES)
    if source is Source.EVENTS and key != name and 0 < len(key.encode()) <= KEY_BYTES_MAX:
        return Field(Source.EVENTS, name, Kind.PROPERTY)
    return None


def text_sql(of: Field, bind: Bindings) -> str:
    """The field as a text."""
    if of.kind is Kind.PROPERTY:
        return f"properties[{bind.text(of.name.removeprefix(PROPERTIES))}]"
    return of.sql


def number_sql(of: Field, bind: Bindings) -> str:
    """The field as a number; NULL where there is none. A text such as `inf` is none."""
    if of.kind is Kind.PROPERTY:
        parsed = f"toFloat64OrNull({text_sql(of, bind)})"
        return f"if(isFinite({parsed}), {parsed}, NULL)"
    return of.sql
