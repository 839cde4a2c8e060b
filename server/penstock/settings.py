"""Every setting: from an argument of the command line, else from the environment (`PENSTOCK_…`), else from a file."""

import os
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)


class Settings(BaseSettings):
    """The settings of one server; read once at start, never changed."""

    model_config = SettingsConfigDict(env_prefix="PENSTOCK_", frozen=True, extra="ignore")

    data_dir: Path = Field(Path(".penstock"), description="Folder of the embedded database and of run-time files.")
    secrets_dir: Path | None = Field(
        None,
        description="Folder of files that hold one setting each and are named like it, such as "
        "`PENSTOCK_CLICKHOUSE_URL`; for what should not stand in the environment, which counts more.",
    )
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
    auth: str = Field(
        "open",
        pattern="^(open|required)$",
        description="`required`: every call but those about health needs a credential. `open`: whoever brings none is "
        "an admin of the tenant `default`; on this machine's own addresses only.",
    )
    allow_public: bool = Field(
        False,
        description="Half of the permission to listen beyond this machine without authentication; the other half is "
        "the flag --allow-public.",
    )
    signing_keys: Path | None = Field(
        None,
        description="File of the keys that sign access tokens, made where it is missing; servers behind one name share "
        "it. Default: signing-keys.json in `data_dir`.",
    )
    public_url: str = Field(
        "",
        description="Address under which browsers reach REST, such as `https://penstock.example.com`; OpenID Connect "
        "returns there.",
    )
    oidc_issuer: str = Field("", description="Issuer of an OpenID provider to sign in with; empty: none.")
    oidc_client_id: str = Field("", description="Client id there.")
    oidc_client_secret: SecretStr = Field(SecretStr(""), description="Client secret there, where it wants one.")
    oidc_allowed_emails: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="E-mail addresses that may sign in through it, separated by commas."
    )
    oidc_allowed_domains: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Domains of e-mail addresses that may, separated by commas."
    )
    oidc_tenant: str = Field("default", description="Tenant of users who first sign in through it.")
    oidc_roles: Annotated[tuple[str, ...], NoDecode] = Field(
        ("viewer",), description="Their roles, separated by commas."
    )
    tls_cert: Path | None = Field(
        None, description="File with the certificate chain (PEM) that gRPC and Envoy show; with `tls_key`."
    )
    tls_key: Path | None = Field(None, description="File with its private key (PEM).")
    tls_client_ca: Path | None = Field(
        None, description="File with the authorities (PEM) whose certificates clients must show (mTLS); empty for none."
    )
    rate_limit: int | None = Field(
        None,
        ge=1,
        le=1_000_000_000,
        description="Calls within `rate_window` of an address without a credential; heavy ones count ten. Default: 60 "
        "where `auth` is `required`, none where it is `open`.",
        validation_alias=AliasChoices("PENSTOCK_RATE_LIMIT", "RATE_LIMIT", "rate_limit"),
    )
    rate_window: int = Field(
        60,
        ge=1,
        le=86_400,
        description="Seconds of the sliding window in which calls are counted.",
        validation_alias=AliasChoices("PENSTOCK_RATE_WINDOW", "RATE_WINDOW", "rate_window"),
    )
    rate_limit_user: int = Field(
        6_000, ge=1, le=1_000_000_000, description="The same of a user who signed in, from wherever they call."
    )
    rate_limit_key: int = Field(60_000, ge=1, le=1_000_000_000, description="The same of an API key.")
    metrics_host: str = Field("127.0.0.1", description="Address that Prometheus metrics are served on.")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of Prometheus metrics (9464 by custom); 0 picks a free one, empty: none.",
    )
    otlp_endpoint: str = Field(
        "",
        description="Where traces go, over OTLP/gRPC, such as `http://localhost:4317`; empty: nowhere. Needs "
        "penstock[tracing].",
    )
    cors_origins: str = Field(
        "*", description="Origins whose pages may call REST, separated by commas; `*` for any, empty for none."
    )
    connect: bool = Field(
        False,
        description="Whether Envoy takes the Connect protocol, too: messages, not JSON, which REST has. Envoy marks "
        "its filter as work in progress, not covered by its threat model.",
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

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Where settings come from, the first that has one counts."""
        folder = os.environ.get("PENSTOCK_SECRETS_DIR")
        if not folder or not Path(folder).is_dir():  # which `_readable` says
            return init_settings, env_settings
        return init_settings, env_settings, SecretsSettingsSource(settings_cls, secrets_dir=folder)

    @field_validator("secrets_dir")
    @classmethod
    def _readable(cls, folder: Path | None) -> Path | None:
        if folder is not None and not (folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)):
            raise ValueError("is no folder that can be read")
        return folder

    @field_validator(
        "trusted_proxies",
        "dq_event_types",
        "oidc_allowed_emails",
        "oidc_allowed_domains",
        "oidc_roles",
        mode="before",
    )
    @classmethod
    def _separated_by_commas(cls, items: object) -> object:
        if isinstance(items, str):
            return [item.strip() for item in items.split(",") if item.strip()]
        return items

    @field_validator(
        "rate_limit", "metrics_port", "tls_cert", "tls_key", "tls_client_ca", "signing_keys", mode="before"
    )
    @classmethod
    def _absent_when_empty(cls, value: object) -> object:
        return None if value == "" else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("PENSTOCK_TLS_CERT and PENSTOCK_TLS_KEY go together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("PENSTOCK_TLS_CLIENT_CA needs PENSTOCK_TLS_CERT and PENSTOCK_TLS_KEY")
        if self.oidc_issuer and not (self.oidc_client_id and self.public_url):
            raise ValueError("PENSTOCK_OIDC_ISSUER needs PENSTOCK_OIDC_CLIENT_ID and PENSTOCK_PUBLIC_URL")
        return self

    @field_validator("redis_url")
    @classmethod
    def _known_redis(cls, url: str) -> str:
        if url not in ("", "embedded") and not _is_url(url, ("redis", "rediss", "unix")):
            raise ValueError(f"must be embedded, redis://host:port/0, rediss://…, unix:///path, or empty; {_QUOTED}")
        return url

    @field_validator("clickhouse_url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        if not _is_url(url, ("chdb", "http", "https")):
            raise ValueError(f"must be chdb:// or http(s)://user:password@host:port/database; {_QUOTED}")
        return url

    @field_validator("ask_api_key")
    @classmethod
    def _sendable(cls, key: SecretStr) -> SecretStr:
        text = key.get_secret_value().strip()  # a file's last line ends with a newline
        if not (text.isascii() and (not text or text.isprintable())):
            raise ValueError("must be of printable ASCII characters: it is sent in a header")
        return SecretStr(text)

    @property
    def auth_required(self) -> bool:
        """Whether a call needs a credential."""
        return self.auth == "required"

    @property
    def signing_keys_file(self) -> Path:
        """Where the keys that sign access tokens are."""
        return self.signing_keys or self.data_dir / "signing-keys.json"

    @property
    def embedded(self) -> bool:
        """Whether the database runs in the server's own process."""
        return urlsplit(self.clickhouse_url).scheme == "chdb"


_QUOTED = "what is special in a password is quoted there, such as / as %2F"


def _is_url(text: str, schemes: tuple[str, ...]) -> bool:
    try:
        url = urlsplit(text)
        # A password with a slash in it ends the address: what is before it is then taken for a port, and must not be
        # told as one that is wrong.
        return url.scheme in schemes and (url.port is None or url.port >= 0)
    except ValueError:
        return False
