"""Every setting: from the environment (`PENSTOCK_…`), or as an argument of the command line."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    """The settings of one server; read once at start, never changed."""

    model_config = SettingsConfigDict(env_prefix="PENSTOCK_", frozen=True, extra="ignore")

    data_dir: Path = Field(Path(".penstock"), description="Folder of the embedded database and of run-time files.")
    clickhouse_url: str = Field(
        "chdb://",
        description="`chdb://` for the embedded engine in `data_dir`, or `http(s)://user:password@host:port/database`.",
    )
    cluster: str = Field(
        "", description="Name of a ClickHouse cluster; when set, tables are ReplicatedMergeTree behind Distributed."
    )
    grpc_host: str = Field("127.0.0.1", description="Address that gRPC listens on.")
    grpc_port: int = Field(50051, ge=0, le=65535, description="Port that gRPC listens on; 0 picks a free one.")
    http_host: str = Field("127.0.0.1", description="Address that Envoy listens on for REST.")
    http_port: int = Field(8080, ge=0, le=65535, description="Port that Envoy listens on for REST; 0 picks a free one.")
    envoy_admin_port: int = Field(0, ge=0, le=65535, description="Port of Envoy's admin page; 0 picks a free one.")
    allow_public: bool = Field(
        False,
        description="Half of the permission to listen beyond this machine without authentication; the other half is "
        "the flag --allow-public.",
    )
    cors_origins: str = Field(
        "*", description="Origins whose pages may call REST, separated by commas; `*` for any, empty for none."
    )
    access_log: str = Field("", description="File of Envoy's access log, `/dev/stdout` among them; empty for none.")
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = Field(
        (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128")),
        description="Networks of the proxies in front of gRPC whose x-forwarded-for is believed, separated by commas.",
    )
    fsync: bool = Field(
        True, description="Flush every commit to the disk before it is acknowledged (DURABLE instead of COMMITTED)."
    )
    pipeline_interval_s: float = Field(
        0.5, ge=0.05, le=60, description="Least seconds between two runs of the pipeline's loop."
    )
    pipeline_enabled: bool = Field(True, description="Whether the pipeline's loop runs in this server.")
    travel_days: int = Field(
        7,
        ge=0,
        le=3650,
        description="Days for which older versions still show what a cleanup removed; then it is deleted.",
    )
    currency: str = Field("USD", pattern="^[A-Z]{3}$", description="ISO 4217 code of amounts that name no currency.")
    conversion_alert_threshold: float = Field(
        0.05, ge=0, le=1, description="Conversion rate below which it is worth a look, and an anomaly by itself."
    )
    dq_price_min: float = Field(0.0, description="Prices below it count as invalid in /dq/status.")
    dq_price_max: float = Field(10_000.0, description="Prices above it count as invalid in /dq/status.")
    dq_event_types: Annotated[tuple[str, ...], NoDecode] = Field(
        (
            *("page_view", "product_view", "search", "click", "impression", "add_to_cart", "remove_from_cart"),
            *("add_to_wishlist", "begin_checkout", "checkout", "purchase", "refund", "signup", "login", "logout"),
            "exposure",
        ),
        description="Event types that /dq/status knows, separated by commas; others count as unknown.",
    )
    redis_url: str = Field(
        "embedded",
        description="Where what may be lost is kept: `embedded` for a Redis of this server's own, `redis://host:port/0`,"
        " `rediss://…` or `unix:///path` for one that servers share, empty for none.",
    )
    redis_memory_bytes: int = Field(
        256 * 1024 * 1024, ge=16 * 1024 * 1024, description="Memory of the embedded Redis, in bytes."
    )
    encoder: str = Field(
        "minilm",
        pattern="^(minilm|clip)$",
        description="What makes vectors of texts: `minilm`, which comes with Penstock, or `clip` from `encoder_path`."
        " When it changes, products are encoded anew in the background.",
    )
    encoder_path: Path | None = Field(
        None, description="Folder of CLIP's ONNX files: text_model.onnx, vision_model.onnx, tokenizer.json."
    )
    ask_url: str = Field(
        "",
        description="Address of an OpenAI-compatible endpoint that writes SQL for questions, such as"
        " `http://localhost:11434/v1`; empty: questions are not answered.",
    )
    ask_model: str = Field("", description="Model to ask there.")
    ask_api_key: SecretStr = Field(SecretStr(""), description="Key for it, where it wants one.")
    drain_s: float = Field(10.0, ge=0, le=300, description="Seconds that open calls may take to end after SIGTERM.")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="Least level that is logged.")
    log_format: str = Field("text", pattern="^(text|json)$", description="`text` for people, `json` for machines.")

    @field_validator("trusted_proxies", "dq_event_types", mode="before")
    @classmethod
    def _separated_by_commas(cls, items: object) -> object:
        if isinstance(items, str):
            return [item.strip() for item in items.split(",") if item.strip()]
        return items

    @field_validator("redis_url")
    @classmethod
    def _known_redis(cls, url: str) -> str:
        if url not in ("", "embedded") and urlsplit(url).scheme not in ("redis", "rediss", "unix"):
            raise ValueError("must be embedded, redis://host:port/0, rediss://…, unix:///path, or empty")
        return url

    @field_validator("clickhouse_url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        if urlsplit(url).scheme not in ("chdb", "http", "https"):
            raise ValueError("must be chdb:// or http(s)://user:password@host:port/database")
        return url

    @property
    def embedded(self) -> bool:
        """Whether the database runs in the server's own process."""
        return urlsplit(self.clickhouse_url).scheme == "chdb"
