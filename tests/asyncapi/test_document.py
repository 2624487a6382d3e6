"""The AsyncAPI document of an application, as its official parser judges it."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, Field

from asyncapi import odd
from asyncapi.example import Say, app, hub
from asyncapi.example import user as who
from browser.serving import Server
from helpers.node_packages import node_modules
from tidewire import Hub
from tidewire.asyncapi.compatibility import breaking_changes
from tidewire.protocols.message_shape import Shape

HERE = Path(__file__).parent


def judge(folder: Path, *documents: Any) -> None:
    """Assert that the parser of AsyncAPI finds nothing wrong."""
    files = []
    for number, document in enumerate(documents):
        (folder / f"{number}.json").write_text(json.dumps(document))
        files.append(str(folder / f"{number}.json"))
    command = ["node", str(HERE / "judge.mjs"), str(node_modules(HERE)), *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def get(app: FastAPI, *paths: str, base_url: str = "http://localhost:8000") -> list[httpx.Response]:
    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base_url) as client:
            return [await client.get(path) for path in paths]

    return asyncio.run(ask())


def secured() -> tuple[Hub, FastAPI]:
    hub = Hub()
    app = FastAPI(lifespan=hub.lifespan)
    hub.authenticate(lambda attempt: None)

    @hub.channel("a", publishes=Say)
    async def rule() -> bool:
        return True

    @hub.channel("b", publishes=Say)
    async def other() -> bool:
        return True

    @hub.channel("c:{rule}")
    async def another(rule: str) -> bool:
        return True

    app.include_router(hub.client_router(user=who), prefix="/v1")
    app.include_router(hub.asyncapi_router(path="/docs/channels"))
    return hub, app


def test_documents_pass_the_official_parser(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.start()
    try:
        import urllib.request

        with urllib.request.urlopen(f"{server.url}/asyncapi.json") as answer:
            ready = json.load(answer)
        with urllib.request.urlopen(f"{server.url}/asyncapi") as answer:
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    finally:
        server.stop()
    assert ready["channels"]
    own, with_security = secured()
    judge(tmp_path, hub.asyncapi(app), odd.hub.asyncapi(), Hub().asyncapi(), own.asyncapi(with_security), ready)


def test_the_document_says_what_the_rules_say() -> None:
    (answer,) = get(app, "/asyncapi.json", base_url="https://chat.example.org:444")
    document = answer.json()
    assert document["info"] == {"title": "Example", "version": "1.2.3", "description": "Every kind of channel."}
    server = document["servers"]["centrifuge"]
    assert (server["protocol"], server["host"], server["pathname"]) == (
        "wss",
        "chat.example.org:444",
        "/connection/websocket",
    )
    room = document["channels"]["room"]
    assert (room["address"], room["summary"], room["parameters"]) == (
        "room:{room}",
        "Rooms of the chat.",
        {"room": {"description": "int"}},
    )
    assert sorted(room["messages"]) == ["Left", "Said", "Say"]
    published, accepted = (document["operations"][f"room_{kind}"] for kind in ("published", "accepted"))
    assert (published["action"], accepted["action"]) == ("send", "receive")
    assert [one["$ref"].rpartition("/")[2] for one in published["messages"]] == ["Said", "Left"]
    assert document["channels"]["price"]["address"] == "price:{symbol}"
    assert document["components"]["schemas"]["Said"]["required"][:2] == ["type", "sender"]
    for name, message in document["components"]["messages"].items():
        assert name == "AnyMessage" or message["examples"], name
    assert document["components"]["messages"]["Say"]["examples"][0]["payload"]["text"] == "hello"
    call = document["operations"]["rpc_twice"]
    assert call["reply"]["messages"] == [{"$ref": "#/channels/rpc_twice/messages/Said"}]


def test_security_and_paths_are_those_of_the_application() -> None:
    hub, app = secured()
    document = hub.asyncapi(app, base_url="http://localhost:8000/root/")
    schemes = document["components"]["securitySchemes"]
    assert {name: scheme["type"] for name, scheme in schemes.items()} == {
        "token": "http",
        "HTTPBearer": "http",
        "APIKeyCookie": "httpApiKey",
    }
    assert document["servers"]["centrifuge"]["pathname"] == "/root/v1/connection/websocket"
    assert len(document["channels"]) == 3


@pytest.mark.parametrize("path", ["/docs/channels", "/asyncapi"])
def test_the_page_loads_nothing_from_elsewhere(path: str) -> None:
    served = secured()[1] if path != "/asyncapi" else app
    paths = (path, f"{path}.json", f"{path}/ui/js/asyncapi/main.js", f"{path}/ui/css/base.css", f"{path}/ui/js/main.js")
    page, document, script, style, other = get(served, *paths)
    policy = page.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    name = path.rpartition("/")[2]
    assert f'"{name}/ui/js/asyncapi/main.js"' in page.text
    assert f'"{name}.json"' in page.text
    assert script.headers["content-type"].startswith("text/javascript")
    assert style.headers["content-type"].startswith("text/css")
    assert "http" not in script.text + style.text
    assert (other.status_code, document.json()["asyncapi"]) == (404, "3.0.0")


def described(type_: Any) -> Any:
    hub = Hub()

    @hub.channel("room:{room}", publishes=type_)
    async def room(room: int) -> bool:
        return True

    return hub.asyncapi()


class Word(BaseModel):
    """A message without defaults: it is sent as it is published."""

    text: str


AN_INTEGER, A_TEXT, NULL = {"type": "integer"}, {"type": "string"}, {"type": "null"}


@pytest.mark.parametrize(
    ("type_", "payloads"),
    [
        (Word | None, [{"$ref": "#/components/schemas/Word"}, NULL]),
        (Annotated[Word | None, Field(description="perhaps")], [{"$ref": "#/components/schemas/Word"}, NULL]),
        (int | list[int] | None, [AN_INTEGER, {"type": "array", "items": AN_INTEGER}, NULL]),
        (Annotated[int, Field(ge=0)] | str, [AN_INTEGER | {"minimum": 0}, A_TEXT]),
    ],
)
def test_each_type_of_a_union_is_a_message(type_: Any, payloads: Any, tmp_path: Path) -> None:
    document = described(type_)
    for kind in ("published", "accepted"):
        names = [one["$ref"].rpartition("/")[2] for one in document["operations"][f"room_{kind}"]["messages"]]
        messages = [document["components"]["messages"][name] for name in names]
        assert [message["payload"] for message in messages] == payloads
        unnamed = [f"room_{kind}", f"room_{kind}_2", f"room_{kind}_3"]
        assert [name for name in names if name != "Word"] == unnamed[: len([one for one in payloads if "type" in one])]
        assert all(message["title"] == "null" for message in messages if message["payload"] == NULL)
    assert breaking_changes(document, document) == []
    assert breaking_changes(document, described(bytes)) != []
    judge(tmp_path, document)


def test_examples_are_valid() -> None:
    messages = odd.hub.asyncapi()["components"]["messages"]
    assert {name for name, message in messages.items() if "examples" not in message} <= {"AnyMessage"}
    json.dumps(messages, allow_nan=False)
    assert messages["Priced"]["examples"][0]["payload"]["out-put"] == 1
    document = hub.asyncapi(app)
    example = document["components"]["messages"]["Say"]["examples"][0]["payload"]
    assert Shape(Say).decode(json.dumps(example).encode()) == Say(text="hello", loud=False)
