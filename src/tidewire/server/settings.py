"""The settings of the server: `tidewire.toml`, then `TIDEWIRE_*` variables, then flags; the later one wins.

The one module that reads the environment. Every field of `limits.Limits` is a setting of the table `[limits]`.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from annotated_types import Ge, Gt
from pydantic import (
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    create_model,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from tidewire.backends import sqlite_path
from tidewire.errors import ConfigurationError
from tidewire.limits import MAY_BE_ZERO, Limits
from tidewire.server.client_settings import ClientTable
from tidewire.server.logs import redacted
from tidewire.server.namespaces import ChannelTable, NamedNamespace
from tidewire.server.pipeline_settings import PipelineTable
from tidewire.server.settings_help import centrifugo_variables, mend_for, unknown_settings
from tidewire.server.shown_settings import leaves, shown
from tidewire.sessions.origins import Origins
from tidewire.support.development import begin_development, is_development
from tidewire.support.local_host import is_loopback
from tidewire.support.networks import problem_of_proxy
from tidewire.tokens.secret import Secret

__all__ = (
    "CONFIG_FILE",
    "HttpApiTable",
    "Loaded",
    "Settings",
    "clean_environment",
    "load",
    "redacted",
    "unknown_variables",
)

CONFIG_FILE = Path("tidewire.toml")
_PREFIX = "TIDEWIRE_"
#: Names inside of a list of tables, for the hints about misspelt ones.
_NAMESPACE_PATHS = tuple(f"channel.namespaces.0.{name}" for name in NamedNamespace.model_fields)
#: Settings whose values no error shows.
_SECRET = re.compile(r"^http_api\.key$|secret")


def _limit_field(field: msgspec.structs.FieldInfo) -> tuple[Any, Any]:
    least = Ge(0) if field.name in MAY_BE_ZERO else Gt(0)
    return Annotated[field.type, least, AllowInfNan(False)], field.default


_limit_fields: Any = {field.name: _limit_field(field) for field in msgspec.structs.fields(Limits)}
#: Validates a table of limits; made from the fields of `Limits`, so that the two cannot differ.
_LimitTable: type[BaseModel] = create_model("_LimitTable", __config__=ConfigDict(extra="forbid"), **_limit_fields)


def _limits(value: object) -> Limits:
    if isinstance(value, Limits):
        return value
    try:
        return Limits(**_LimitTable.model_validate(value).model_dump())
    except ValidationError as error:
        raise ValueError(_problem(error, "limits.")) from None


def _comma_separated(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Names = Annotated[list[str], NoDecode, BeforeValidator(_comma_separated)]


class HttpApiTable(BaseModel):
    """The table `[http_api]`: the key of the HTTP API, which is off without one."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    key: Secret = SecretStr("")
    #: Anybody may call it: for development, and behind a proxy that authenticates the callers.
    insecure: bool = False
    #: `transport`: an error sets the status of the response too, as with the header X-Centrifugo-Error-Mode.
    error_mode: Literal["", "transport"] = ""

    @property
    def is_on(self) -> bool:
        """Whether the API is on."""
        return self.insecure or bool(self.key.get_secret_value())


class Settings(BaseSettings):
    """The settings. Constructing them reads nothing; `load` reads the file and the environment."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        arbitrary_types_allowed=True,
        validate_default=False,
    )

    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(8000, ge=0, le=65_535)
    #: A Unix socket to listen on, instead of host and port.
    uds: Path | None = None
    #: Where messages are kept: `memory://`, `sqlite:///file.db`, …
    broker: str = Field("sqlite:///tidewire.db", pattern="^[a-z][a-z0-9+.-]*://")
    workers: int = Field(1, ge=1, le=1_024)
    #: The SQLite file of users and rooms; None: the broker's file, or `tidewire.db` beside a broker that has none.
    accounts: Path | None = None
    #: The key that signs tokens, made at first start; None: the accounts file with `.key` added.
    key_file: Path | None = None
    #: How long a token is valid.
    token_seconds: float = Field(604_800.0, gt=0, allow_inf_nan=False)
    #: Strangers may make an account.
    signup: bool = True
    #: The pages and endpoints of the tutorial; None: only when the host is a loopback address.
    tutorial: bool | None = None
    #: The page `/playground`, where connections are cut; None: on a loopback address under development (FASTAPI_ENV).
    playground: bool | None = None
    #: Origins whose pages may connect, as `https://example.org`; None: the same origin, and loopback ones on loopback.
    allowed_origins: Names | None = None
    #: Addresses or networks of proxies whose `X-Forwarded-*` headers are believed.
    trusted_proxies: Names = ["127.0.0.1", "::1"]
    #: Compress messages (RFC 7692): less traffic, more memory for each connection.
    deflate: bool = False
    log_level: Literal["critical", "error", "warning", "info", "debug"] = "info"
    #: `json`: one object for each record, for a program that collects them.
    log_format: Literal["text", "json"] = "text"
    #: Log each request, without its query.
    access_log: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    #: Seconds of silence after which a worker process counts as frozen and is replaced.
    worker_seconds: float = Field(5.0, ge=1, allow_inf_nan=False)
    limits: Annotated[Limits, BeforeValidator(_limits), PlainSerializer(msgspec.structs.asdict)] = Limits()
    #: Which clients may connect, and the options of their channels.
    client: ClientTable = ClientTable()
    channel: ChannelTable = ChannelTable()
    http_api: HttpApiTable = HttpApiTable()
    #: Long jobs with live progress.
    pipelines: PipelineTable = PipelineTable()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use the given values only."""
        return (init_settings,)

    @property
    def accounts_file(self) -> Path:
        """The path of the SQLite file of users and rooms."""
        if self.accounts is not None:
            return self.accounts
        return sqlite_path(self.broker) if self.broker.startswith("sqlite:") else Path("tidewire.db")

    @property
    def token_key_file(self) -> Path:
        """The path of the key that signs tokens."""
        return self.key_file or Path(f"{self.accounts_file}.key")

    @property
    def runs_folder(self) -> Path:
        """The folder of runs of pipelines."""
        return self.pipelines.runs or Path(f"{self.accounts_file}-pipelines")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    @property
    def accepts_accounts(self) -> bool:
        """Whether clients may connect as users of the server's own accounts."""
        if self.client.allow_accounts is not None:
            return self.client.allow_accounts
        return not (self.signup and self.client.token.has_keys)

    @property
    def sets_accounts_apart(self) -> bool:
        """Whether an account and a user of the application who have the same name are two users."""
        return self.client.token.has_keys and not self.accepts_accounts

    @property
    def serves_tutorial(self) -> bool:
        """Whether the tutorial is served."""
        return self.is_loopback if self.tutorial is None else self.tutorial

    @property
    def serves_playground(self) -> bool:
        """Whether the playground is served: never to other machines."""
        return self.is_loopback and (is_development() if self.playground is None else self.playground)


class Loaded(msgspec.Struct, frozen=True):
    """Settings with the origin of each value: "default", "file", "environment" or "flag", by its dotted name."""

    settings: Settings
    origins: dict[str, str]

    def lines(self) -> Iterator[tuple[str, str, str]]:
        """Yield each setting's name, its value as TOML with secrets hidden, and its origin."""
        values = {name: getattr(self.settings, name) for name in Settings.model_fields if name != "limits"}
        values |= {f"limits.{name}": value for name, value in msgspec.structs.asdict(self.settings.limits).items()}
        for path, value in values.items():
            for name, inner in leaves(path, value):
                yield name, shown(name, inner), self.origins.get(name, "default")


class _Environment(EnvSettingsSource):
    """The variables, with `TIDEWIRE_LIMITS__NAME` gathered into one table."""

    def field_is_complex(self, field: FieldInfo) -> bool:
        return field.annotation is Limits or super().field_is_complex(field)


def load(config: Path | None = None, flags: Mapping[str, Any] | None = None) -> Loaded:
    """Read the file, the environment and the flags; a flag that is None was not given.

    Without `config`, `tidewire.toml` of the current folder is read if it is there. Raises ConfigurationError.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    try:
        environment = _Environment(Settings)()
    except SettingsError as error:
        raise ConfigurationError(f"the environment cannot be read: {error}") from None
    sources = {"file": _read_file(config), "environment": environment, "flag": given}
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, values in sources.items():
        if not isinstance(values.get("limits", {}), Mapping):
            raise ConfigurationError(
                f"limits from the {origin} must be a table of names and numbers, not {values['limits']!r}"
            )
        _merge(merged, values, origins, origin, "")
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise ConfigurationError(_blamed(error, origins)) from None
    _check(settings)
    return Loaded(settings, origins)


def _merge(merged: dict[str, Any], values: Mapping[str, Any], origins: dict[str, str], origin: str, path: str) -> None:
    """Merge the values of a source: tables name by name, other values whole."""
    for name, value in values.items():
        if isinstance(value, Mapping) and isinstance(merged.setdefault(name, {}), dict):
            _merge(merged[name], value, origins, origin, f"{path}{name}.")
        else:
            merged[name], origins[path + name] = value, origin


def unknown_variables() -> Iterator[str]:
    """Yield a warning for each variable that looks like a misspelt setting, or is one of Centrifugo's."""
    known = [f"{_PREFIX}{name.upper()}" for name in Settings.model_fields]
    known += [f"{_PREFIX}LIMITS__{name.upper()}" for name in _LimitTable.model_fields]
    known += [f"{_PREFIX}{path.upper().replace('.', '__')}" for path, _ in _table_fields(Settings) if "." in path]
    for name in os.environ:
        upper = name.upper()
        if upper.startswith(_PREFIX) and upper not in known:
            near = difflib.get_close_matches(upper, known, 1, 0.8)
            if near:
                yield f"the variable {name} is not a setting; did you mean {near[0]}?"
    yield from centrifugo_variables(os.environ, _known())


def clean_environment() -> dict[str, str]:
    """Return the environment for a process that must not inherit these settings."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(_PREFIX)}


def _read_file(config: Path | None) -> dict[str, Any]:
    path = config or CONFIG_FILE
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except FileNotFoundError:
        if config is None:
            return {}
        raise ConfigurationError(f"{path} does not exist; write it, or leave out --config") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}); make it readable") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from None
    _refuse_unknown(path, values)
    return values


def _table_fields(table: type[BaseModel], path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield the settings of a table and of those in it, by their dotted names."""
    for name, field in table.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _table_fields(field.annotation, f"{path}{name}.")
        else:
            yield path + name, field


def _refuse_unknown(path: Path, values: Mapping[str, Any]) -> None:
    found = list(unknown_settings(values, _known()))
    if len(found) == 1:
        raise ConfigurationError(f"{path}: unknown setting {found[0][0]}; {found[0][1]}")
    if found:
        raise ConfigurationError(f"{path}: unknown settings\n" + "\n".join(f"  {name}: {mend}" for name, mend in found))


def _known() -> list[str]:
    """Return the dotted names of all settings."""
    limits = (f"limits.{name}" for name in _LimitTable.model_fields)
    return [*(path for path, _ in _table_fields(Settings)), *limits, *_NAMESPACE_PATHS]


def _check(settings: Settings) -> None:
    if (settings.tls_cert is None) != (settings.tls_key is None):
        missing = "tls_key" if settings.tls_key is None else "tls_cert"
        raise ConfigurationError(f"{missing} is missing: TLS needs both tls_cert and tls_key")
    if settings.uds is not None and (other := sorted({"host", "port"} & settings.model_fields_set)):
        raise ConfigurationError(f"uds and {other[0]} are two places to listen at; leave out one of them")
    Origins(settings.allowed_origins or ())
    if problem := next(filter(None, map(problem_of_proxy, settings.trusted_proxies)), ""):
        raise ConfigurationError(f"trusted_proxies: {problem}; headers of a proxy that is not known are not believed")
    if settings.playground and (problem := begin_development(only_this_machine=settings.is_loopback)):
        raise ConfigurationError(f"the playground is for development alone: {problem}")
    if settings.broker.startswith("sqlite:"):
        sqlite_path(settings.broker)
    if settings.workers > 1 and settings.broker.startswith("memory:"):
        raise ConfigurationError(
            f"memory:// keeps messages in one process, so {settings.workers} workers could not see each other's; "
            "use --broker sqlite:///tidewire.db, or --workers 1"
        )


def _blamed(error: ValidationError, origins: Mapping[str, str]) -> str:
    problem = _problem(error)
    name = problem.partition(" ")[0].rstrip(":")
    for path in (name, *(known for known in origins if name.startswith(f"{known}."))):
        if path in origins:
            return f"{problem} (from the {origins[path]})"
    return problem


def _problem(error: ValidationError, table: str = "") -> str:
    first = error.errors()[0]
    where = table + ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{where} is not a setting; {mend_for(where, _known())}"
    value = first["input"]
    value = redacted(value) if isinstance(value, str) else value
    quoted = f" {value!r}" if isinstance(value, str | int | float) and not _SECRET.search(where) else ""
    reason = first["msg"].removeprefix("Value error, ")
    if reason.startswith(f"{where}."):
        return reason  # the table's own error names the setting already
    return f"{where}{quoted}: {reason[:1].lower()}{reason[1:]}"
