from __future__ import annotations

import asyncio
import base64
import json
import stat
import subprocess
import sys
import time
from pathlib import Path

import jwt
import pytest

from tidewire.errors import ConfigurationError
from tidewire.server.accounts import Accounts
from tidewire.server.login_sessions import LoginSession
from tidewire.server.login_tokens import InvalidToken, Tokens, identify, load_key

KEY = b"k" * 32
TOKENS = Tokens(KEY, 3_600)
SESSION = LoginSession("s1", time.time(), time.time() + 3_600, "")


def forged(key: bytes = KEY, algorithm: str = "HS256", headers: dict[str, str] | None = None, **changes: object) -> str:
    now = int(time.time())
    claims = {"sub": "ann", "jti": "s1", "iat": now, "exp": now + 60, "iss": "tidewire"} | changes
    kept = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(kept, key, algorithm=algorithm, headers=headers)


def unsigned() -> str:
    header, payload, _ = forged().split(".")
    none = base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "JWT"}).encode()).rstrip(b"=").decode()
    assert header != none
    return f"{none}.{payload}."


def test_a_token_says_whose_it_is_and_when_it_ends() -> None:
    claims = TOKENS.verify(TOKENS.issue("ann", SESSION))
    assert (claims.user, claims.session) == ("ann", "s1")
    assert claims.expires - claims.issued == pytest.approx(3_600, abs=0.01)
    assert TOKENS.verify(forged()).user == "ann"


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(unsigned(), id="alg none"),
        pytest.param(forged(key=b"x" * 32), id="another key"),
        pytest.param(forged(algorithm="HS512", key=b"k" * 64), id="another algorithm"),
        pytest.param(forged(headers={"kid": "../../dev/null"}, key=b"y" * 32), id="key id"),
        pytest.param(forged(iss="somebody"), id="another issuer"),
        pytest.param(forged(iss=None), id="no issuer"),
        pytest.param(forged(exp=None), id="no end"),
        pytest.param(forged(sub=None), id="no user"),
        pytest.param(forged(iat=None), id="no beginning"),
        pytest.param(forged(exp=int(time.time()) - 1), id="expired"),
        pytest.param(forged(exp="soon"), id="an end that is no number"),
        pytest.param(forged(pad="x" * 8_192), id="huge"),
        pytest.param("", id="empty"),
        pytest.param("a.b.c", id="not base64"),
        pytest.param("é" * 10, id="not ascii"),
        pytest.param("." * 8_000, id="dots"),
        pytest.param(forged()[:-2], id="cut"),
    ],
)
def test_every_other_token_is_refused_with_the_same_words(token: str) -> None:
    with pytest.raises(InvalidToken) as caught:
        TOKENS.verify(token)
    assert str(caught.value) == "invalid or expired token; log in again"
    assert caught.value.__cause__ is None


def test_a_payload_changed_under_its_signature_is_refused() -> None:
    header, _, signature = forged().split(".")
    _, payload, _ = forged(sub="bob").split(".")
    with pytest.raises(InvalidToken):
        TOKENS.verify(f"{header}.{payload}.{signature}")


def test_a_token_of_a_removed_user_is_refused_also_for_the_next_one_of_that_name(tmp_path: Path) -> None:
    async def run() -> None:
        accounts = Accounts(tmp_path / "a.db")
        await accounts.open()
        user = await accounts.add_user("Ann", "correct horse")
        token = TOKENS.issue(user.id, await accounts.sessions.start(user.id, 3_600))
        assert (await identify(token, TOKENS, accounts)).user == user
        await accounts.remove_user("ann")
        with pytest.raises(InvalidToken):
            await identify(token, TOKENS, accounts)
        await accounts.add_user("Ann", "another horse")  # at once: no clock decides
        with pytest.raises(InvalidToken):
            await identify(token, TOKENS, accounts)
        await accounts.aclose()

    asyncio.run(run())


def test_a_token_ends_with_its_session(tmp_path: Path) -> None:
    async def run() -> None:
        accounts = Accounts(tmp_path / "a.db")
        await accounts.open()
        user = await accounts.add_user("ann", "correct horse")
        sessions = [await accounts.sessions.start(user.id, 3_600) for _ in range(2)]
        ended, other = (TOKENS.issue(user.id, session) for session in sessions)
        await accounts.sessions.end(user.id, sessions[0].id)
        with pytest.raises(InvalidToken):
            await identify(ended, TOKENS, accounts)
        assert (await identify(other, TOKENS, accounts)).claims.session == sessions[1].id
        await accounts.aclose()

    asyncio.run(run())


def test_a_known_device_admits_nobody_by_itself() -> None:
    device = TOKENS.issue_device("ann")
    known = TOKENS.verify_device(device)
    assert known is not None
    assert known[0] == "ann"
    assert TOKENS.verify_device(TOKENS.issue("ann", SESSION)) is None
    with pytest.raises(InvalidToken):
        TOKENS.verify(device)


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    key = load_key(path)
    assert len(key) == 32
    assert load_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert load_key(tmp_path / "b.key") != key


def test_a_key_that_another_process_made_meanwhile_is_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.key"
    key = load_key(path)
    monkeypatch.setattr(Path, "exists", lambda self, **_: False)
    assert load_key(path) == key
    assert list(tmp_path.iterdir()) == [path]


def test_processes_that_start_at_once_get_the_same_key(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from tidewire.server.login_tokens import load_key\n"
        "sys.stdin.readline()\n"
        "print(load_key(pathlib.Path(sys.argv[1])).hex())\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "a.key")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    keys = {process.communicate(timeout=60)[0] for process in processes}
    assert len(keys) == 1
    assert len(keys.pop().strip()) == 64


@pytest.mark.parametrize("content", ["", "abcd", "not hexadecimal", "é"])
def test_a_file_that_is_no_key_is_named_and_not_shown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.key"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="remove it and a new one is made") as caught:
        load_key(path)
    assert not content or content not in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--key-file"):
        load_key(tmp_path / "missing" / "a.key")
