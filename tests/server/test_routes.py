"""The HTTP side of the ready server, over a real socket."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from tests.server.live_server import LiveServer

GOOD = "correct horse"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with LiveServer(tmp_path_factory.mktemp("server"), "--access-log", "--log-level", "debug") as running:
        running.post("/signup", json={"username": "Ann", "password": GOOD})
        yield running


def no_store(response: httpx.Response) -> bool:
    return response.headers["cache-control"] == "no-store"


def test_signing_up_gives_a_token_that_says_who_one_is(server: LiveServer) -> None:
    answer = server.post("/signup", json={"username": "Bob", "password": GOOD})
    assert answer.status_code == 201
    assert no_store(answer)
    token = answer.json()["token"]
    assert answer.json() == {"token": token, "access_token": token, "token_type": "bearer"}
    me = server.get("/me", headers={"Authorization": f"Bearer {token}"})
    assert (me.status_code, me.json()) == (200, {"username": "Bob"})
    assert no_store(me)


@pytest.mark.parametrize("kind", ["json", "data", "files"])
def test_logging_in_with_json_or_a_form(server: LiveServer, kind: str) -> None:
    fields = {"username": "ann", "password": GOOD}
    body = {name: (None, value) for name, value in fields.items()} if kind == "files" else fields
    answer = server.post("/login", **{kind: body})
    assert answer.status_code == 200
    assert no_store(answer)
    assert set(answer.json()) == {"token", "access_token", "token_type"}


@pytest.mark.parametrize("name", ["ann", "nobody"])
def test_a_wrong_login_is_told_the_same_whoever_it_is(server: LiveServer, name: str) -> None:
    answer = server.post("/login", json={"username": name, "password": "wrong horse"})
    assert (answer.status_code, answer.json()) == (401, {"detail": "Invalid credentials"})
    assert no_store(answer)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/no<b>where", "Nothing is at /no&lt;b&gt;where on this server."),
        ("/manual/nothing", "There is no page &#x27;nothing&#x27; in /manual."),
    ],
)
def test_a_browser_is_shown_a_page_where_nothing_is_and_a_program_gets_json(
    server: LiveServer, path: str, why: str
) -> None:
    shown = server.get(path, headers={"Accept": "text/html,*/*;q=0.8"})
    assert (shown.status_code, shown.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert why in shown.text
    assert '<a href="/tutorial">Tutorial</a>' in shown.text
    assert "default-src 'none'" in shown.headers["content-security-policy"]
    told = server.get(path)
    assert told.status_code == 404
    assert set(told.json()) == {"detail"}


def test_the_query_is_no_place_for_a_password(server: LiveServer) -> None:
    answer = server.post("/login", params={"username": "ann", "password": GOOD})
    assert answer.status_code == 422
    answer = server.post("/login", params={"username": "ann", "password": GOOD}, data={"x": "y"})
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"username": "ANN", "password": GOOD}, 409, "name 'ANN' is taken"),
        ({"username": "a b", "password": GOOD}, 422, "1 to 32 letters"),
        ({"username": "carol", "password": "short"}, 422, "at least 8 characters"),
        ({"username": "carol"}, 422, "as JSON or as a form"),
        ({"username": 1, "password": GOOD}, 422, "as JSON or as a form"),
        ([], 422, "as JSON or as a form"),
    ],
)
def test_signing_up_wrongly_is_told_in_words(server: LiveServer, fields: object, status: int, said: str) -> None:
    answer = server.post("/signup", json=fields)
    assert answer.status_code == status
    assert said in answer.json()["detail"]


#: A form without a password, whose text needs a character set.
FORM = b'--x\r\nContent-Disposition: form-data; name="username"\r\n\r\nann..\xff\xfe\r\n--x--\r\n'


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"[" * 10_000, "application/json"),
        (b'{"username": "\\ud800", "password": "12345678"}', "application/json"),
        (b"--x", "multipart/form-data; boundary=x"),
        (b"", "multipart/form-data"),
        (FORM, "multipart/form-data; boundary=x; charset=undefined"),
        (FORM, "multipart/form-data; boundary=x; charset=idna"),
        (FORM, "multipart/form-data; boundary=x; charset=zip"),
        (FORM.replace(b": form-data", b"\xb0"), "multipart/form-data; boundary=x"),
        (b"&&&===" * 100, "application/x-www-form-urlencoded"),
    ],
)
def test_garbage_is_answered_in_words(server: LiveServer, content: bytes, kind: str) -> None:
    answer = server.post("/login", content=content, headers={"Content-Type": kind})
    assert answer.status_code == 422, answer.text
    assert "as JSON or as a form" in answer.json()["detail"]
    assert "Traceback" not in server.err
    assert "multipart" not in server.err


@pytest.mark.parametrize(
    "kind", ["application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_big_is_not_read_to_its_end(server: LiveServer, kind: str, chunked: bool) -> None:
    start = b'--x\r\nContent-Disposition: form-data; name="username"\r\n\r\n' if "multipart" in kind else b"username="
    body = start + b"a" * 1_000_000
    content = iter([body[at : at + 10_000] for at in range(0, len(body), 10_000)]) if chunked else body
    try:
        answer = server.post("/login", content=content, headers={"Content-Type": kind})
    except (httpx.WriteError, httpx.ReadError):
        return  # it was told while this side was still writing
    assert answer.status_code == 413


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer x.y.z", "Basic YTpi"])
def test_without_a_token_one_is_nobody(server: LiveServer, header: str | None) -> None:
    answer = server.get("/me", headers={"Authorization": header} if header else {})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


def test_too_many_failures_are_told_when_to_come_back(server: LiveServer) -> None:
    server.post("/signup", json={"username": "victim", "password": GOOD})
    wrong = {"username": "victim", "password": "wrong horse"}
    for _ in range(10):
        assert server.post("/login", json=wrong).status_code == 401
    answer = server.post("/login", json=wrong)
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= 60
    assert server.post("/login", json={"username": "ann", "password": GOOD}).status_code == 200


def test_neither_passwords_nor_tokens_are_logged(server: LiveServer) -> None:
    answer = server.post("/login", data={"username": "ann", "password": GOOD})
    token = answer.json()["token"]
    server.get("/healthz", params={"token": token})
    server.get("/me", headers={"Authorization": f"Bearer {token}"})
    server.post("/login?password=" + GOOD, data={})
    assert "/healthz" in server.err
    for secret in (token, GOOD, GOOD.replace(" ", "%20"), (server.folder / "tidewire.db.key").read_text().strip()):
        assert secret not in server.err + server.out


def test_health(server: LiveServer) -> None:
    for path in ("/healthz", "/readyz"):
        answer = server.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert "server" not in server.get("/healthz").headers


def test_the_page_and_everything_it_names_is_served_under_a_strict_policy(server: LiveServer) -> None:
    page = server.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    named = set(re.findall(r'(?:src|href)="(/ui/[^"#]+)', page.text))
    assert any(name.endswith(".js") for name in named)
    for answer in (page, *(server.get(name) for name in named)):
        assert answer.status_code == 200, answer.url
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".js", "text/javascript"), (".css", "text/css"), (".svg", "image/svg+xml")]
)
def test_files_have_their_types_and_are_asked_again_for_nothing(server: LiveServer, suffix: str, kind: str) -> None:
    found = re.search(rf'"(/ui/[^"#]+\{suffix})', server.get("/").text)
    assert found is not None
    answer = server.get(found[1])
    assert answer.headers["content-type"].split(";")[0] == kind
    again = server.get(found[1], headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "content-security-policy" in again.headers


@pytest.mark.parametrize(
    "path", ["/ui/../app.py", "/ui/%2e%2e/app.py", "/ui/..%2fapp.py", "/ui//etc/passwd", "/ui/", "/nope"]
)
def test_nothing_outside_of_the_folder_is_served(server: LiveServer, path: str) -> None:
    parts = urlsplit(server.url)
    assert parts.hostname is not None
    with socket.create_connection((parts.hostname, parts.port or 0), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("path", ["/tutorial", "/tutorial/echo", "/tutorial/items", "/tutorial/chat"])
def test_the_tutorial_has_its_pages(server: LiveServer, path: str) -> None:
    answer = server.get(path)
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_what_is_switched_off_is_not_there(tmp_path: Path) -> None:
    with LiveServer(tmp_path, "--no-tutorial", "--no-signup") as server:
        for path in ("/tutorial", "/tutorial/echo"):
            assert server.get(path).status_code == 404
        answer = server.post("/signup", json={"username": "ann", "password": GOOD})
        assert answer.status_code == 403
        assert "switched off" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_head_is_answered_like_get_without_a_body(server: LiveServer, path: str) -> None:
    got, head = server.get(path), httpx.head(server.url + path, timeout=10)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]


@pytest.mark.parametrize("path", ["/ws", "/connection/websocket", "/connection/uni_websocket"])
def test_a_plain_get_of_a_websocket_path_is_told_what_speaks_there(server: LiveServer, path: str) -> None:
    answer = server.get(path)
    assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
    assert "speaks WebSocket" in answer.text
    assert httpx.head(server.url + path, timeout=10).status_code == 426
    assert server.post(path).status_code in (404, 405)


def test_an_unknown_path_is_404(server: LiveServer) -> None:
    answer = server.get("/nothing/here")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
