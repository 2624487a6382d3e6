"""The types of an application's channels for its clients: what was renamed breaks them before a user does."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

import tidewire
from asyncapi.example import app, hub
from helpers.hubs import serving
from helpers.node_packages import node_modules
from tidewire import Hub, InvalidMessage
from tidewire.asyncapi.compatibility import breaking_changes
from tidewire.asyncapi.python import python
from tidewire.asyncapi.typescript import typescript
from tidewire.client import Client

HERE = Path(__file__).parent
UI = Path(tidewire.__file__).parent / "server" / "ui"
PAGE = """
import { Centrifuge } from "centrifuge";
import { connect } from "./tidewire.js";
import { typedCentrifuge, typedClient, channel, type Said } from "./channels.js";

const own = typedClient(connect("/connection/websocket"));
const room = own.subscribe("room", { room: 1 }, ({ data }) => {
  if (data.type === "said") console.log(data.text, data.sender);
  else console.log(data.user);
});
room.on("publication", ({ data }) => console.log(data.type));
room.on("subscribed", ({ recovered }) => console.log(recovered));
await room.publish({ text: "hi" });
room.unsubscribe();
const twice: Said = await own.rpc("twice", { text: "hi" });
const there = typedCentrifuge(new Centrifuge("ws://localhost"));
const price = there.newSubscription("price", { symbol: "tea" });
price.on("publication", ({ data }) => console.log(data.symbol));
price.subscribe();
await there.publish("room", { room: 2 }, { text: channel("room", { room: 3 }), loud: true });
console.log(twice.sender, (await there.rpc("twice", { text: "hi" })).text, own.client.state, there.client.state);
"""
WRONG = {
    "data.text, data.sender": "data.texts, data.sender",
    'room.publish({ text: "hi" })': 'room.publish({ texts: "hi" })',
    '"room", { room: 1 }': '"room", { rom: 1 }',
    'own.rpc("twice", { text: "hi" })': 'own.rpc("twice", { text: 5 })',
    "data.symbol": "data.name",
    "text: channel(": "loud: channel(",
    "own.client.state": "own.client.stat",
}


def tsc(folder: Path, *pages: str) -> list[str]:
    """Return what the compiler says of each page."""
    modules = node_modules(HERE)
    shutil.copy(UI / "tidewire.d.ts", folder)
    (folder / "node_modules").symlink_to(modules / "node_modules", target_is_directory=True)
    options = {"strict": True, "noEmit": True, "module": "nodenext", "target": "es2022", "skipLibCheck": True}
    options |= {"lib": ["es2022", "dom"], "types": []}
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "include": ["*.ts"]}))
    for number, page in enumerate(pages):
        (folder / f"page{number}.ts").write_text(page)
    command = ["node", str(modules / "node_modules/typescript/bin/tsc"), "-p", str(folder), "--pretty", "false"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    lines = done.stdout.splitlines()
    assert not [line for line in lines if line.startswith(("channels.ts", "tidewire.d.ts"))], done.stdout
    return ["\n".join(line for line in lines if line.startswith(f"page{number}.ts")) for number in range(len(pages))]


def test_the_declarations_name_all_that_the_module_offers() -> None:
    module, declared = (UI / "tidewire.js").read_text(), (UI / "tidewire.d.ts").read_text()
    names = re.findall(r"^export (?:class|function) (\w+)", module, re.M)
    names += re.findall(r"^ \* @property \{.*\} \[?(\w+)", module, re.M)
    names += re.findall(r"^  (?:async |get )?([a-z]\w*)\(.*\{$", module.partition("export class Client")[2], re.M)
    names = [name for name in names if name not in ("constructor", "if", "for", "while", "switch")]
    assert {"getState", "map", "readTexts", "EntryMap", "presence", "position"} <= set(names)
    assert not [name for name in names if not re.search(rf"\b{name}\b", declared)]


def test_a_page_is_compiled_with_its_types_and_a_wrong_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "channels.ts").write_text(typescript(hub.asyncapi(app)))
    right, *wrong = tsc(tmp_path, PAGE, *(PAGE.replace(old, new) for old, new in WRONG.items()))
    assert right == ""
    assert [text for text, found in zip(WRONG, wrong, strict=True) if "error" not in found] == []


def test_a_python_client_knows_the_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "channels_of_example.py").write_text(python(hub.asyncapi(app)))
    monkeypatch.syspath_prepend(str(tmp_path))
    import channels_of_example as made  # type: ignore[import-not-found]

    command = ["mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(tmp_path / "channels_of_example.py")]
    checked = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout

    async def main() -> None:
        async with (
            serving(hub, app) as application,
            Client(f"ws://127.0.0.1:{application.port}/connection/websocket") as client,
        ):
            channels = made.Channels(client)
            assert await channels.twice(made.Say(text="ha")) == made.Said(
                sender="twice", text="haha", pair=(1, "a"), counts={}, at=None
            )
            room = channels.room(7)
            messages = room.messages()
            first = asyncio.ensure_future(anext(messages))
            while not (await hub.node.broker.positions(["room:7"])).get("room:7") or not (
                asked := client._subscriptions.get("room:7")
            ):
                await asyncio.sleep(0.01)
            await asked.wait_subscribed()
            await room.publish(made.Say(text="hi"))
            assert (await first).data.text == "hi!"
            with pytest.raises(InvalidMessage):
                await room.publish(made.Say(text=""))
            await hub.node.publish("room:7", b'{"older": 1}')
            older = await anext(messages)
            assert (older.data, older.publication.data) == (None, {"older": 1})
            assert "wrong shape" in older.problem
            await messages.aclose()

    asyncio.run(main())


class Old(BaseModel):
    """A message."""

    text: str = Field(max_length=10)
    kind: int = 1


def document(published: Any, accepted: Any = None, pattern: str = "room:{room}") -> dict[str, Any]:
    hub = Hub()

    @hub.channel(pattern, publishes=published, accepts=accepted)
    async def room(room: int) -> bool:
        return True

    @room.on_publish
    async def handle(message: Any) -> None:
        return None

    async def call(data: Any) -> Any:
        return data

    call.__annotations__.update({"data": accepted or published, "return": published})
    hub.rpc("call")(call)
    return hub.asyncapi()


def model(name: str, **fields: Any) -> Any:
    from pydantic import create_model

    return create_model(name, **fields)


OLD = {"text": (str, Field(max_length=10)), "kind": (int, 1)}


@pytest.mark.parametrize(
    ("published", "accepted", "told"),
    [
        (OLD, OLD, ""),
        (OLD | {"more": (int, 1)}, OLD | {"more": (int, 1)}, ""),
        (OLD | {"text": (str, Field(max_length=20))}, OLD | {"text": (str, Field(max_length=20))}, ""),
        ({"texts": OLD["text"], "kind": OLD["kind"]}, OLD, "published Message.text: it is gone"),
        (OLD, {"texts": OLD["text"], "kind": OLD["kind"]}, "accepted Given.texts: it is required now"),
        (OLD | {"kind": (str, "1")}, OLD, "published Message.kind: it is string now, and was integer"),
        (OLD, OLD | {"kind": (str, "1")}, "accepted Given.kind: it must be string, and was integer"),
        (OLD, OLD | {"kind": (int, ...)}, "accepted Given.kind: it is required now"),
        (OLD, OLD | {"text": (str, Field(max_length=5))}, "accepted Given.text: maxLength is 5 now, and was 10"),
        (OLD | {"kind": (int | None, 1)}, OLD, "published Message.kind: it is null now, and was integer"),
    ],
)
def test_what_would_break_deployed_clients_is_named(published: Any, accepted: Any, told: str) -> None:
    before = document(model("Message", **OLD), model("Given", **OLD))
    changes = breaking_changes(before, document(model("Message", **published), model("Given", **accepted)))
    assert bool(changes) == bool(told), changes
    assert not told or any(told in change for change in changes), changes


def test_what_is_gone_is_named() -> None:
    message = model("Message", **OLD)
    changes = breaking_changes(document(message), document(message, pattern="rooms:{room}"))
    assert changes == ["channel room:{room}: there is no such channel any more"]
    changes = breaking_changes(document(message), document(model("Other", **OLD)))
    assert "channel room:{room}: Message is not published any more" in changes


def test_the_command_writes_checks_and_compares(tmp_path: Path) -> None:
    shutil.copy(HERE / "example.py", tmp_path / "example.py")

    def run(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "tidewire", "types", "example:app", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout + done.stderr

    assert run("--typescript", "channels.ts")[0] == 0
    assert run("known.json")[0] == 0
    code, text = run("--typescript")
    assert (code, text) == (0, (tmp_path / "channels.ts").read_text())
    assert run("--typescript", "channels.ts", "--check")[0] == 0
    assert run("--compat", "known.json")[0] == 0
    source = (tmp_path / "example.py").read_text()
    for old, new in (("    text: str = Field(min_length=2)", "    words: str"), ("text=", "words=")):
        source = source.replace(old, new)
    (tmp_path / "example.py").write_text(source)
    code, text = run("channels.ts", "--check")
    assert (code, "old" in text) == (1, True)
    code, text = run("--compat", "known.json")
    assert (code, "published Said.text: it is gone" in text) == (1, True), text
    assert run("--check", "--typescript")[0] == 2
    assert run("--compat", "channels.ts")[0] == 2
    assert run("--check")[0] == 2
