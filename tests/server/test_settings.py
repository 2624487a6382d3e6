from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from tidewire.errors import ConfigurationError
from tidewire.limits import Limits
from tidewire.server import settings_help
from tidewire.server.settings import Settings, load, redacted, unknown_variables


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(text: str, name: str = "tidewire.toml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def test_defaults_without_file_and_variables() -> None:
    settings = load().settings
    assert (settings.host, settings.port, settings.broker, settings.workers) == (
        "127.0.0.1",
        8000,
        "sqlite:///tidewire.db",
        1,
    )
    assert settings.limits == Limits()
    assert settings.accounts_file == Path("tidewire.db")
    assert settings.token_key_file == Path("tidewire.db.key")


def test_a_flag_beats_a_variable_beats_the_file_beats_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    written('port = 1\nhost = "0.0.0.0"\nworkers = 3\n[limits]\nburst = 5\nrate = 6\nchannels = 7\n')
    monkeypatch.setenv("TIDEWIRE_PORT", "2")
    monkeypatch.setenv("TIDEWIRE_WORKERS", "4")
    monkeypatch.setenv("TIDEWIRE_LIMITS__RATE", "60")
    monkeypatch.setenv("TIDEWIRE_LIMITS__CHANNELS", "70")
    loaded = load(flags={"workers": 5, "host": None, "limits": {"channels": "700"}})
    settings = loaded.settings
    assert (settings.host, settings.port, settings.workers) == ("0.0.0.0", 2, 5)
    assert (settings.limits.burst, settings.limits.rate, settings.limits.channels) == (5, 60.0, 700)
    origins = {name: origin for name, _, origin in loaded.lines()}
    assert origins["host"] == origins["limits.burst"] == "file"
    assert origins["port"] == origins["limits.rate"] == "environment"
    assert origins["workers"] == origins["limits.channels"] == "flag"
    assert origins["broker"] == origins["limits.message_size"] == "default"


@pytest.mark.parametrize("name", [field.name for field in msgspec.structs.fields(Limits)])
def test_every_limit_is_a_setting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"TIDEWIRE_LIMITS__{name.upper()}", "3")
    assert getattr(load().settings.limits, name) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", "unknown setting prot; did you mean port?"),
        ("[limits]\nmesage_size = 1", "unknown setting limits.mesage_size; did you mean limits.message_size?"),
        ("message_size = 1", "did you mean limits.message_size?"),
        ("port = 70000", "port 70000"),
        ("port = 'x'", "port 'x'"),
        ("workers = 0", "workers 0"),
        ("[limits]\nmessage_size = 0", "message_size 0"),
        ("[limits]\nrate = nan", "rate nan"),
        ("limits = 3", "must be a table"),
        ("broker = 'here'", "broker 'here'"),
        ("broker = 'sqlite://'", "names no file"),
        ("broker = 'memory://'\nworkers = 2", "use --broker sqlite:///tidewire.db, or --workers 1"),
        ("tls_cert = 'a.pem'", "tls_key is missing"),
        ("allowed_origins = ['example.org']", "write it as https://example.org"),
        ("log_level = 'loud'", "log_level 'loud'"),
        ("port =", "is not TOML"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_says_what_to_write(text: str, said: str) -> None:
    written(text)
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("proxy", "said"),
    [("10.0.0.1/8", "write 10.0.0.0/8"), ("proxy.internal", "is no address"), ("10.0.1", "is no address")],
)
def test_a_proxy_that_nobody_can_be_is_refused(proxy: str, said: str) -> None:
    """Its headers would not be believed, and all clients behind it would be one network."""
    with pytest.raises(ConfigurationError, match=said):
        load(flags={"trusted_proxies": f"127.0.0.1,{proxy}"})


def test_proxies_are_addresses_and_networks() -> None:
    proxies = ["10.0.0.1", "10.0.0.0/8", "2001:db8::/32", "fe80::1%eth0", "*"]
    assert load(flags={"trusted_proxies": proxies}).settings.trusted_proxies == proxies


def test_a_named_file_must_exist() -> None:
    with pytest.raises(ConfigurationError, match=r"nope\.toml does not exist"):
        load(Path("nope.toml"))
    assert load(written("port = 9", "other.toml")).settings.port == 9


def test_a_wrong_value_names_its_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEWIRE_LIMITS__BURST", "many")
    with pytest.raises(ConfigurationError, match=r"burst 'many'.*from the environment"):
        load()


def test_a_server_listens_at_one_place() -> None:
    assert load(None, {"uds": "app.sock"}).settings.uds == Path("app.sock")
    with pytest.raises(ConfigurationError, match="uds and port are two places to listen at"):
        load(written("port = 8001"), {"uds": "app.sock"})


def test_a_limit_that_is_none_names_the_nearest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEWIRE_LIMITS__MESAGE_SIZE", "1")
    with pytest.raises(ConfigurationError) as caught:
        load()
    told = "limits.mesage_size is not a setting; did you mean limits.message_size? (from the environment)"
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("CENTRIFUGO_CLIENT_TOKEN_HMAC_SECRET_KEY", "write TIDEWIRE_CLIENT__TOKEN__HMAC_SECRET_KEY"),
        ("CENTRIFUGO_HTTP_API_KEY", "write TIDEWIRE_HTTP_API__KEY"),
        ("CENTRIFUGO_CLIENT_CHANNEL_LIMIT", "write limits.channels"),
        ("CENTRIFUGO_BROKER_REDIS_ADDRESS", 'one URL names the store: broker = "redis://…"'),
        (
            "CENTRIFUGO_ADMIN_PASSWORD",
            "not needed, because /admin is always there, with the key of http_api.key; leave it out",
        ),
        ("CENTRIFUGO_TOKEN_HMAC_SECRET_KEY", "write TIDEWIRE_CLIENT__TOKEN__HMAC_SECRET_KEY"),
        ("CENTRIFUGO_API_KEY", "write TIDEWIRE_HTTP_API__KEY"),
        (
            "CENTRIFUGO_CHANNEL_NAMESPACES_RECOVERY_HISTORY_SIZE",
            "write the table [[channel.namespaces]], or TIDEWIRE_CHANNEL__NAMESPACES as a list in JSON",
        ),
        ("CENTRIFUGO_URL", ""),
        ("CENTRIFUGO_", ""),
    ],
)
def test_variables_of_centrifugo_are_named_with_ours(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were ignored in silence; an application's own (a URL for its client) are not ours to judge."""
    monkeypatch.setenv(name, "s3cret")
    found = [warning for warning in unknown_variables() if "CENTRIFUGO" in warning]
    assert found == ([f"the variable {name} is not read: it is Centrifugo's; {said}"] if said else [])


def test_misspelt_variables_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEWIRE_WORKER", "2")
    monkeypatch.setenv("TIDEWIRE_REQUIRE_ALL", "1")
    monkeypatch.setenv("TIDEWIRE_PORT", "1")
    assert list(unknown_variables()) == [
        "the variable TIDEWIRE_WORKER is not a setting; did you mean TIDEWIRE_WORKERS?"
    ]


def test_lists_in_variables_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEWIRE_ALLOWED_ORIGINS", "https://a.org, http://b.org:8080")
    assert load().settings.allowed_origins == ["https://a.org", "http://b.org:8080"]


def test_constructing_settings_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    written("port = 1")
    monkeypatch.setenv("TIDEWIRE_PORT", "2")
    assert Settings().port == 8000


@pytest.mark.parametrize(
    ("host", "tutorial", "expected"),
    [
        ("127.0.0.1", None, True),
        ("localhost", None, True),
        ("::1", None, True),
        ("0.0.0.0", None, False),
        ("example.org", None, False),
        ("0.0.0.0", True, True),
        ("127.0.0.1", False, False),
    ],
)
def test_the_tutorial_is_on_by_itself_only_on_loopback(host: str, tutorial: bool | None, expected: bool) -> None:
    assert Settings(host=host, tutorial=tutorial).serves_tutorial is expected


@pytest.mark.parametrize(
    ("broker", "accounts", "key"),
    [
        ("sqlite:///chat.db", "chat.db", "chat.db.key"),
        ("sqlite:////var/chat.db", "/var/chat.db", "/var/chat.db.key"),
        ("memory://", "tidewire.db", "tidewire.db.key"),
        ("redis://somewhere", "tidewire.db", "tidewire.db.key"),
    ],
)
def test_accounts_are_in_the_file_of_the_broker_if_it_has_one(broker: str, accounts: str, key: str) -> None:
    settings = Settings(broker=broker)
    assert (str(settings.accounts_file), str(settings.token_key_file)) == (accounts, key)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://ann:s3cret@host/0", "redis://ann:***@host/0"),
        ("redis://:s3cret@host", "redis://:***@host"),
        ("postgresql://ann:s3:cr@t@host/db?sslmode=on", "postgresql://ann:***@host/db?sslmode=on"),
        ("nats://host?password=s3cret&x=1", "nats://host?password=***&x=1"),
        ("sqlite:///chat.db", "sqlite:///chat.db"),
    ],
)
def test_passwords_in_urls_are_hidden(url: str, shown: str) -> None:
    assert redacted(url) == shown


def test_what_is_printed_shows_no_password() -> None:
    lines = list(load(flags={"broker": "redis://ann:s3cret@host/0?token=s3cret"}).lines())
    assert not [line for line in lines if "s3cret" in str(line)]
    assert ("broker", '"redis://ann:***@host/0?token=***"', "flag") in lines


def test_settings_survive_the_way_to_a_worker() -> None:
    from tidewire.server.worker_job import Job

    settings = Settings(port=1, accounts=Path("a.db"), limits=Limits(rate=7.5), allowed_origins=["https://a.org"])
    job = Job(settings, "main:app", {"rate": 7.5})
    assert Job.decode(job.encode()) == job


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[client]\nallowed_origins = ['https://a.example']", "write allowed_origins, without a table"),
        ("[client]\nchannel_limit = 5", "write limits.channels"),
        ("[client.token]\nhmac_secret = 'x'", "did you mean client.token.hmac_secret_key?"),
        ("[http_server]\nport = '8000'", "unknown setting http_server.port; write port, without a table"),
        ("[http_server]\ninternal_port = '9'", "unknown setting http_server; not supported, because"),
        ("[broker]\ntype = 'redis'", 'unknown setting broker.type; one URL names the store: broker = "redis://'),
        ("[broker.redis]\naddress = 'x:1'", "unknown setting broker.redis.address; one URL names the store"),
        ("[websocket]\nmessage_size_limit = 1", "unknown setting websocket.message_size_limit; write limits.message_"),
        ("[clinet]\ninsecure = true", "unknown setting clinet; did you mean client?"),
        ("[client]\nclient_insecure = true", "unknown setting client.client_insecure; did you mean client.insecure?"),
        (
            "[client]\nhistory_size = 1",
            "unknown setting client.history_size; did you mean channel.without_namespace.hi",
        ),
        ("[client.token]\nzzz = 'x'", "unknown setting client.token.zzz; `tidewire serve --print-config` lists"),
        (
            "[[channel.namespaces]]\nname = 'aa'\npresense = true",
            "namespaces.0.presense; did you mean channel.namespaces.0.",
        ),
        ("[sse]\nenabled = true", "always on"),
        ("[uni_sse]\nenabled = true", "always on"),
        ("[uni_grpc]\nenabled = true", "no such endpoint"),
        ("[engine]\ntype = 'redis'", 'set broker = "redis://'),
        ("[[proxies]]\nname = 'x'", "rules"),
        ("[[channel.namespaces]]\nname = 'aa'\nshared_poll = {}", "not supported, because shared polls"),
        ("client.map_pagination_min_limit = 1", "not needed, because a client is given"),
        ("[channel.without_namespace]\nsubscribe_proxy_name = 'x'", "rules"),
        ("[channel]\nmax_length = 5", "write limits.channel_name"),
        ("[channel.without_namespace]\nhistory_siz = 5", "did you mean channel.without_namespace.history_size?"),
    ],
)
def test_what_only_centrifugo_has_is_told_of(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(written(text))
    assert said in str(caught.value)


def test_all_names_that_are_no_settings_are_told_at_once() -> None:
    path = written(
        "prot = 1\n[client]\ninsecure = true\nconcurrency = 8\n[http_server]\nport = 8000\nhttp3 = {enabled = true}\n"
        "[sse]\nenabled = true\n[[channel.namespaces]]\nname = 'aa'\n[[channel.namespaces]]\nname = 'bb'\n"
        "historysize = 1\n"
    )
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    first, *others = str(caught.value).splitlines()
    assert first == f"{path}: unknown settings"
    names = ["prot", "client.concurrency", "http_server.port", "http_server.http3.enabled", "sse"]
    assert [line.split(":")[0].strip() for line in others] == [*names, "channel.namespaces.1.historysize"]
    assert others[-1].endswith("did you mean channel.namespaces.1.history_size?")


def test_every_limit_that_a_hint_names_exists() -> None:
    names = {name for hint in settings_help._HINTS.values() for name in re.findall(r"limits\.(\w+)", hint)}
    assert names
    assert names <= {field.name for field in msgspec.structs.fields(Limits)}


def test_tables_come_together_from_all_places_and_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    written(
        '[client.token]\nhmac_secret_key = "s3cret"\n[http_api]\nkey = "k3y"\n[[channel.namespaces]]\nname = "news"\n'
    )
    monkeypatch.setenv("TIDEWIRE_CLIENT__TOKEN__ISSUER", "me")
    monkeypatch.setenv("TIDEWIRE_CLIENT__INSECURE", "true")
    loaded = load()
    assert loaded.settings.client.token.hmac_secret_key.get_secret_value() == "s3cret"
    assert (loaded.settings.client.token.issuer, loaded.settings.client.insecure) == ("me", True)
    shown = {name: (value, origin) for name, value, origin in loaded.lines()}
    assert shown["client.token.hmac_secret_key"] == shown["http_api.key"] == ('"***"', "file")
    assert shown["client.token.issuer"] == ('"me"', "environment")
    assert shown["channel.namespaces"] == ('["news"]', "file")
    assert shown["channel.without_namespace.presence"] == ("false", "default")
    for text in (str(loaded), repr(loaded.settings), str(shown)):
        assert "s3cret" not in text
        assert "k3y" not in text
    assert Settings(**loaded.settings.model_dump(mode="json")) == loaded.settings  # so workers are given them
    monkeypatch.setenv("TIDEWIRE_CHANNEL__NAMESPACES", '[{"name": "other"}]')
    assert [namespace.name for namespace in load().settings.channel.namespaces] == ["other"]


def test_a_wrong_secret_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(written("[client.token]\nhmac_secret_key = 12345"))
    assert "12345" not in str(caught.value)
    assert "hmac_secret_key" in str(caught.value)
