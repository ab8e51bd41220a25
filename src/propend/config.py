"""``propend.toml`` as frozen values: a wrong key or value is named with its place and the nearest right one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from propend.errors import ConfigError, nearest
from propend.names import ROLES

__all__ = [
    "FILE_NAME",
    "ApiKey",
    "AskConfig",
    "AttributionConfig",
    "CleanConfig",
    "Config",
    "DecideConfig",
    "EventSource",
    "FunnelConfig",
    "LifecycleConfig",
    "LiveConfig",
    "PathsConfig",
    "RecommendConfig",
    "RetentionConfig",
    "Source",
    "TableSource",
    "TrendConfig",
    "TriggerConfig",
    "TypeRule",
    "WorkspaceConfig",
    "load",
    "parse",
]

FILE_NAME = "propend.toml"

Format = Literal["auto", "csv", "jsonl", "parquet", "database"]
Treatment = Literal["keep", "flag", "quarantine"]


class Frozen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A frozen declaration that refuses keys it does not know."""


class WorkspaceConfig(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds for the whole workspace."""

    name: str = "workspace"
    zone: str | None = None
    currency: str = "EUR"
    buckets: int = 0
    """Number of user buckets of the store; 0 chooses by the size of the first ingest."""
    seed: int = 7


class Source(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where rows come from: files (CSV, JSON lines, Parquet; folders and globs) or a database table."""

    name: str = "table"
    files: tuple[str, ...] = ()
    format: Format = "auto"
    encoding: str = "auto"
    delimiter: str = "auto"
    header: bool | None = None
    """Whether the first line names the columns; not given: judged by the file itself."""
    columns: tuple[str, ...] = ()
    """Names for the columns of a file without a header line."""
    database: str | None = None
    """A DuckDB or SQLite file, or a PostgreSQL URL; then ``table`` names the table or is a query."""
    table: str | None = None
    numbers: tuple[str, ...] = ()
    """Text columns to be read as numbers (currency signs and thousands separators are understood)."""
    decimal: Literal[".", ","] = "."


class TypeRule(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows for which ``when`` holds are events of this type; the first rule that holds decides."""

    when: str
    type: str
    label: str = ""


class EventSource(Source, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A source of events: which column (or SQL expression over columns) plays which role."""

    name: str = "events"
    roles: dict[str, str] = {}
    type: str = "event"
    """The event type of a row that no rule, mapping or ``type`` role decides."""
    types: tuple[TypeRule, ...] = ()
    type_map: dict[str, str] = {}
    times: tuple[str, ...] = ()
    """Time formats (strptime), or epoch_s, epoch_ms, epoch_us; tried in this order; empty: ISO 8601."""
    zone: str | None = None
    """The zone of this source's times that carry none; the workspace's zone if not given."""
    properties: dict[str, str] = {}
    of_item: dict[str, str] = {}
    """Attributes of the item that the log repeats on each line (name, category, …)."""
    of_user: dict[str, str] = {}
    """Attributes of the user that the log repeats on each line (country, …)."""

    def __post_init__(self) -> None:
        for role in self.roles:
            if role not in ROLES:
                raise ConfigError(
                    f"events source {self.name!r}: no role {role!r}{nearest(role, ROLES)}"
                )


class TableSource(Source, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of items or users: one row each, a key and attributes."""

    key: str = ""
    attributes: dict[str, str] = {}


class TieSource(Source, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of ties between users (friends, followers): one row each, two columns with user ids."""

    user: str = "user"
    friend: str = "friend"
    since: str | None = None
    """Column with the moment a tie began, a date or a time in UTC; without one a tie has always been."""


class CommunityConfig(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether profiles say which community a user belongs to, and what ties users together."""

    by: Literal["none", "items", "friends"] = "none"
    types: tuple[str, ...] = ()
    """Event types whose items tie users; empty: all."""
    resolution: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    """Above 1 more and smaller communities, below 1 fewer."""


class CleanConfig(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The cleaning rules. ``quarantine`` sets rows aside with the reason, ``flag`` only counts them."""

    exact_duplicates: Treatment = "quarantine"
    duplicate_messages: Treatment = "quarantine"
    future_times: Treatment = "quarantine"
    future_slack: str = "1d"
    """How far past the moment it arrived (where that is not said: of ingest) a time may lie."""
    earliest: str = "1970-01-02"
    """Times before this day are impossible (epoch zero is a missing time in disguise)."""
    negative_price: Treatment = "quarantine"
    zero_quantity: Treatment = "quarantine"
    max_amount: float = 1e9
    """A value, price or quantity beyond this (either sign) is impossible."""
    outliers: Treatment = "flag"
    outlier_mads: float = 12.0
    """A price this many median absolute deviations from its item's median is an outlier."""
    bots: Treatment = "flag"
    bot_events_per_day: float = 2_000.0
    bot_regularity: float = 0.05
    """Coefficient of variation of the gaps below which a busy user is too regular for a person."""
    test_users: Treatment = "flag"
    test_user_pattern: str = r"(?i)^(test|demo|qa|dummy)([-_.@ 0-9]|$)|@(test|example)\."
    link_returns: bool = True
    missing: dict[str, Literal["keep", "drop", "impute"]] = {}
    """Per role or property: keep a missing value (native to the model), drop the row to the
    quarantine, or impute it (numbers: the item's median, else the column's; text: the mode)."""


class AskConfig(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question about the future, by name."""

    name: str
    ask: str
    title: str = ""


class FunnelConfig(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A funnel, by name. The words mean what they mean in :func:`propend.analytics.funnel.funnel`."""

    name: str
    steps: tuple[str, ...]
    within: str = "7d"
    order: str = "ordered"
    ties: str = "sequence"
    reentry: str = "latest"
    per: str = "user"
    hold: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    by: str | None = None
    who: str | None = None
    session_gap: str = "30min"
    since: str | None = None
    """Entries from this day on."""
    until: str | None = None
    """Entries before this day."""


class TrendConfig(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A measure over time, by name."""

    name: str
    measure: str
    unit: str = "day"
    by: str | None = None


class RetentionConfig(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A retention table or survival curve, by name."""

    name: str
    unit: str = "month"
    start: str | None = None
    back: str | None = None
    mode: str = "on"
    recurring: bool = False
    brackets: str = ""
    """Days on each user's own clock, for example ``1-2,7-8,30-31``."""
    survival: bool = False


class PathsConfig(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sessions and paths, by name; with ``after`` or ``before`` what sessions do around a node."""

    name: str
    gap: str = "30min"
    declared: bool = False
    of: str = "type"
    length: int = 8
    top: int = 20
    collapse: bool = True
    after: str | None = None
    before: str | None = None
    depth: int = 4


class LifecycleConfig(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """New, returning, resurrected and dormant users, by name."""

    name: str
    unit: str = "week"
    of: str | None = None


class AttributionConfig(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An attribution of conversions to channels, by name."""

    name: str
    conversion: str = "purchase"
    channel: str = "channel"
    touch: str = "*"
    lookback: str = "30d"
    half_life: str = "7d"


class ForecastConfig(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The funnel ahead, by name."""

    name: str
    horizon: str = "30d"
    memory: str = "90d"


class DecideConfig(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a push costs and earns, and how many may be sent."""

    task: str = ""
    """The yes/no task whose probability drives the decision; empty: the first purchase task."""
    channel: str = "email"
    cost: float = 0.05
    """Cost of one push in the workspace's currency."""
    margin: float = 0.3
    """Share of a purchase's value that is profit."""
    budget: float | None = None
    """Most that may be spent on pushes in one run; none: every push that pays."""
    holdout: float = 0.1
    """Share of the eligible users kept silent at random, so that the effect can be measured."""
    explore: float = 0.05
    """Share of the rest whose action is drawn at random, so that other policies can be judged later."""
    hours: tuple[int, int] = (8, 21)
    """First and last hour of the day, on the workspace's clock, at which a message may arrive."""
    lift: float = 0.1
    """Relative lift of the purchase probability a push is assumed to give until one was measured."""


class RecommendConfig(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How offers are put together: where they come from, and the shop's rules for the list."""

    mix: Literal["best", "ranker", "weights", "order"] = "best"
    """How the sources are brought together: by a learned ranker, learned weights, one after the other, or whichever of
    these, of the sources alone and of those that ``compete`` did best on the log's last tenth."""
    sources: tuple[dict[str, Any], ...] = ()
    """Recommenders of the catalogue, each ``name`` and its settings, in place of the house's own sources."""
    compete: tuple[str, ...] = ()
    """Recommenders of the catalogue in words (``transformer:size=tiny,epochs=5``) that compete to serve; they do only where
    they did best on the log's last tenth."""
    segment: str | None = None
    """User attribute whose groups have a popularity of their own."""
    category: str | None = None
    """Item attribute that says the category, for the next three."""
    diversity: float = 0.0
    """0 to 1: how much an item loses for each one of its category above it."""
    calibration: float = 0.0
    """0 to 1: how much a list follows the user's own shares of the categories."""
    cap: int | None = None
    """Most items of one category in a list."""
    novelty: float = 0.0
    """What little-known items gain; 1 is as much as lies between the best and the last candidate."""
    freshness: float = 0.0
    """What items gain that were first met lately."""
    margin: str | None = None
    """Item attribute: what one sale leaves."""
    profit: float = 0.0
    """What items of high margin gain."""
    stock: str | None = None
    """Item attribute that is 0, false or "no" for what cannot be delivered."""
    pin: tuple[str, ...] = ()
    """Item ids shown first to everyone, in this order."""
    bury: tuple[str, ...] = ()
    """Item ids shown only where nothing else is left."""
    bought: Literal["offer", "replenish", "hide"] = "offer"
    """What was bought: offered again as the sources see fit, only if it is bought again and again, or never."""
    replenishable: str | None = None
    """Item attribute that marks what is bought again; not given: judged by the log."""
    repeat: float = 0.1
    """Share of an item's buyers who bought it again from which it is replenishable."""
    shown: tuple[str, ...] = ()
    """Event types by which an item was shown to a user (impression, …)."""
    at_most: int | None = None
    """Most times an item is shown to one user within ``within``."""
    within: str = "30d"
    most_shown: int | None = None
    """Most users one item is offered to in a run, for scarce stock."""


class ApiKey(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may ask the live API what. ``key`` is the secret itself, or ``sha256:`` and its hash in hex."""

    key: str
    scopes: tuple[Literal["read", "decide", "operate"], ...] = ("read",)
    """``read``: profiles, expressions, predictions, recommendations; ``decide``: decisions; ``operate``: undo, replay."""
    per_second: float = 500.0
    """Requests that this key may send, on average."""


class TriggerConfig(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An expression watched live: it fires when it becomes true for a user."""

    name: str
    when: str
    url: str = ""
    """Webhook to call; empty: only the outbox."""
    secret: str = ""
    """Signs the webhook (HMAC-SHA256)."""


class LiveConfig(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the live server takes in, keeps ready and watches."""

    keys: dict[str, str] = {}
    """Write key → source name; without any, every key is taken as the source ``live``."""
    inbox: str | None = None
    """A PostgreSQL URL; not given: SQLite in the workspace's folder ``live``."""
    properties: dict[str, Literal["number", "text"]] = {}
    """Event properties to keep in the store."""
    traits: tuple[str, ...] = ()
    """User traits to keep in the store (none: names and addresses do not belong there)."""
    api: tuple[ApiKey, ...] = ()
    """Keys of the API; without any, only this machine may ask."""
    triggers: tuple[TriggerConfig, ...] = ()
    shadow: dict[str, int] = {}
    """Task → model version that answers silently beside the current one."""
    join_ids: bool = True
    """Whether batch answers join all ids of a person, as live ones do."""
    move: str = "30s"
    """How often the inbox is moved into the store."""
    memory_mb: int = 512
    """How much memory the timelines of active users may take."""


class Config(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of ``propend.toml``."""

    workspace: WorkspaceConfig = WorkspaceConfig()
    events: tuple[EventSource, ...] = ()
    items: TableSource | None = None
    users: TableSource | None = None
    friends: TieSource | None = None
    communities: CommunityConfig = CommunityConfig()
    clean: CleanConfig = CleanConfig()
    tasks: tuple[AskConfig, ...] = ()
    funnels: tuple[FunnelConfig, ...] = ()
    retention: tuple[RetentionConfig, ...] = ()
    paths: tuple[PathsConfig, ...] = ()
    trends: tuple[TrendConfig, ...] = ()
    lifecycle: tuple[LifecycleConfig, ...] = ()
    attribution: tuple[AttributionConfig, ...] = ()
    forecasts: tuple[ForecastConfig, ...] = ()
    stages: dict[str, tuple[str, ...]] = {}
    """Event types of each stage (attention, interest, desire, action); empty: proposed by the names of the types."""
    recommend: RecommendConfig = RecommendConfig()
    decide: DecideConfig = DecideConfig()
    live: LiveConfig = LiveConfig()

    def zone_of(self, source: EventSource) -> str:
        """Return the zone in which this source's naive times are read.

        Raises ``ConfigError`` where neither the source nor the workspace names one.
        """
        zone = source.zone or self.workspace.zone
        if zone is None:
            raise ConfigError(
                f"events source {source.name!r} has times without a zone and the workspace names none; "
                "set workspace.zone in propend.toml (for example zone = 'Europe/Berlin')"
            )
        return zone


def parse(data: dict[str, Any], where: str = FILE_NAME) -> Config:
    """Build the configuration from plain data; ``where`` stands in error messages.

    >>> parse({"workspace": {"zone": "Europe/Berlin"}}).workspace.zone
    'Europe/Berlin'
    >>> parse({"workspace": {"zoen": "UTC"}})
    Traceback (most recent call last):
    ...
    propend.errors.ConfigError: propend.toml: unknown key 'zoen' in workspace; did you mean 'zone'?
    """
    try:
        config = msgspec.convert(data, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_sentence(str(error))}") from None
    for zone in (config.workspace.zone, *(source.zone for source in config.events)):
        if zone is not None:
            try:
                ZoneInfo(zone)
            except (ZoneInfoNotFoundError, ValueError):
                raise ConfigError(
                    f"{where}: no time zone {zone!r}; use an IANA name such as 'Europe/Berlin'"
                ) from None
    if config.communities.by == "friends" and config.friends is None:
        raise ConfigError(
            f"{where}: communities by friends need a table of them; add [friends] with files, user and friend"
        )
    first, last = config.decide.hours
    if not 0 <= first <= last <= 23:
        raise ConfigError(
            f"{where}: decide.hours must be two hours of the day in order, such as [8, 21], not [{first}, {last}]"
        )
    for kind, names in (
        ("task", [t.name for t in config.tasks]),
        ("events source", [s.name for s in config.events]),
        ("funnel", [f.name for f in config.funnels]),
        ("retention table", [f.name for f in config.retention]),
        ("set of paths", [f.name for f in config.paths]),
        ("trend", [f.name for f in config.trends]),
        ("lifecycle", [f.name for f in config.lifecycle]),
        ("attribution", [f.name for f in config.attribution]),
    ):
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"{where}: two {kind}s are named {twice!r}; give each its own name")
    return config


def load(folder: Path) -> Config:
    """Read ``propend.toml`` in a workspace folder.

    Raises ``ConfigError`` where it is missing, is not TOML, or holds a wrong key or value.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise ConfigError(
            f"{folder} is not a workspace: it has no {FILE_NAME}; make one with: propend init {folder} --from FILE"
        )
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as TOML: {error}") from None
    return parse(data, str(path))


_SECTIONS: dict[str, type[msgspec.Struct]] = {
    "": Config,
    "workspace": WorkspaceConfig,
    "events": EventSource,
    "items": TableSource,
    "users": TableSource,
    "friends": TieSource,
    "communities": CommunityConfig,
    "clean": CleanConfig,
    "tasks": AskConfig,
    "funnels": FunnelConfig,
    "retention": RetentionConfig,
    "paths": PathsConfig,
    "trends": TrendConfig,
    "recommend": RecommendConfig,
    "lifecycle": LifecycleConfig,
    "attribution": AttributionConfig,
    "decide": DecideConfig,
    "live": LiveConfig,
    "api": ApiKey,
    "triggers": TriggerConfig,
    "types": TypeRule,
}


def _sentence(message: str) -> str:
    """Turn msgspec's message into a sentence that names the key, its place and the nearest known key."""
    place = re.search(r" - at `\$\.?(.*)`$", message)
    where = place.group(1) if place else ""
    unknown = re.search(r"unknown field `(.*?)`", message)
    if unknown is None:
        return message.split(" - at ")[0].lower() + (f", at {where}" if where else "")
    section = re.sub(r"\[[^\]]*\]", "", where).split(".")[-1]
    fields = _SECTIONS.get(section, Config).__struct_fields__
    key = unknown.group(1)
    return f"unknown key {key!r}" + (f" in {where}" if where else "") + nearest(key, fields)
