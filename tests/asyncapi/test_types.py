"""The types of an application's channels for its clients: what was renamed breaks them before a user does."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from datetime import date, datetime
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

import tidewire
from asyncapi import odd
from asyncapi.example import app, hub
from helpers.hubs import serving
from helpers.node_packages import node_modules
from tidewire import Hub, InvalidMessage
from tidewire.asyncapi.compatibility import breaking_changes
from tidewire.asyncapi.python import python
from tidewire.asyncapi.typescript import typescript
from tidewire.client import Client, given

HERE = Path(__file__).parent
UI = Path(tidewire.__file__).parent / "server" / "ui"
PAGE = """
import { Centrifuge } from "centrifuge";
import { connect } from "./tidewire.js";
import { typedCentrifuge, typedClient, channel, type Said } from "./channels.js";
import { typedClient as oddClient } from "./odd.js";

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
const odd = oddClient(connect("/connection/websocket"));
await odd.publish("pets", {}, { pet: "dog" });
const found = await odd.rpc("find", null);
console.log(found?.page.items);
"""
WRONG = {
    "data.text, data.sender": "data.texts, data.sender",
    'room.publish({ text: "hi" })': 'room.publish({ texts: "hi" })',
    '"room", { room: 1 }': '"room", { rom: 1 }',
    'own.rpc("twice", { text: "hi" })': 'own.rpc("twice", { text: 5 })',
    "data.symbol": "data.name",
    "text: channel(": "loud: channel(",
    "own.client.state": "own.client.stat",
    'publish("pets", {}, { pet: "dog" })': 'publish("pets", {}, {})',
    "found?.page": "found.page",
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
    assert not [line for line in lines if line.startswith(("channels.ts", "odd.ts", "tidewire.d.ts"))], done.stdout
    return ["\n".join(line for line in lines if line.startswith(f"page{number}.ts")) for number in range(len(pages))]


def test_the_declarations_name_all_that_the_module_offers() -> None:
    module, declared = (UI / "tidewire.js").read_text(), (UI / "tidewire.d.ts").read_text()
    names = re.findall(r"^export (?:class|function) (\w+)", module, re.M)
    names += re.findall(r"^ \* @property \{.*\} \[?(\w+)", module, re.M)
    names += re.findall(r"^  (?:async |get )?([a-z]\w*)\(.*\{$", module.partition("export class Client")[2], re.M)
    names = [name for name in names if name not in ("constructor", "if", "for", "while", "switch")]
    assert {"getState", "map", "readTexts", "EntryMap", "presence", "position"} <= set(names)
    assert not [name for name in names if not re.search(rf"\b{name}\b", declared)]
    assert re.findall(r"(?:connect|constructor)\(url(.)", declared) == ["?", "?"]  # without one it is the server's own


def test_a_page_is_compiled_with_its_types_and_a_wrong_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "channels.ts").write_text(typescript(hub.asyncapi(app)))
    (tmp_path / "odd.ts").write_text(typescript(odd.hub.asyncapi()))
    right, *wrong = tsc(tmp_path, PAGE, *(PAGE.replace(old, new) for old, new in WRONG.items()))
    assert right == ""
    assert [text for text, found in zip(WRONG, wrong, strict=True) if "error" not in found] == []


def test_a_python_client_knows_the_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / "channels_of_example.py", tmp_path / "odd_channels.py"]
    for file, document in zip(files, (hub.asyncapi(app), odd.hub.asyncapi()), strict=True):
        file.write_text(python(document))
    monkeypatch.syspath_prepend(str(tmp_path))
    import channels_of_example as made  # type: ignore[import-not-found]
    import odd_channels  # type: ignore[import-not-found]

    dog = {"pet": "wolf", "inner": {"from": 2}}
    read = odd_channels.DogInput.model_validate(dog)
    assert read.inner == odd_channels.PromiseInput(from_=2)
    assert given([read]) == [msgspec.Raw(read.model_dump_json(by_alias=True, exclude_none=True).encode())]
    assert "secret" not in read.inner.model_dump(exclude_none=True)
    assert odd_channels.Begun.model_validate({"count": 1}).count == 1  # as it is published
    assert odd_channels.PricedInput(own=1, price=1.5, group=odd_channels.set_()).model_dump_ == 1
    assert TypeAdapter(odd_channels.Anything).validate_python([{"a": [1.5, None]}]) == [{"a": [1.5, None]}]
    with pytest.raises(ValidationError):
        odd_channels.DogInput()  # by what they are told apart must be there

    command = ["mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), *map(str, files)]
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


def document(published: Any, accepted: Any = None, pattern: str = "room:{room}", number: Any = int) -> dict[str, Any]:
    hub = Hub()

    async def of_room(room: Any) -> bool:
        return True

    async def of_id(id: Any) -> bool:
        return True

    function = of_id if "{id}" in pattern else of_room
    function.__annotations__ = {"room": number, "id": number}
    room = hub.channel(pattern, publishes=published, accepts=accepted)(function)

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


def one(type_: Any, default: Any = ...) -> Any:
    return model("Message", it=(type_, default))


def tagged(*kinds: str) -> Any:
    return reduce(or_, (model(kind.title(), kind=(Literal[kind], kind)) for kind in kinds))


PART, OTHER_PART, LONGER_PART = (model("Part", **dict.fromkeys(names, (int, ...))) for names in ("a", "b", "ab"))
LONG = Annotated[str, Field(min_length=3)]


def node(type_: Any) -> Any:
    """Return a type that holds itself in a union."""
    namespace: dict[str, Any] = {"__annotations__": {"value": type_, "parent": "Node | None"}, "parent": None}
    return type("Node", (BaseModel,), {"__module__": __name__, **namespace})


@pytest.mark.parametrize(
    ("old", "new", "breaks_readers", "breaks_writers"),
    [
        (one(int), one(float), True, False),
        (one(float), one(int), False, True),
        (one(datetime), one(str), True, False),
        (one(str), one(datetime), False, True),
        (one(datetime), one(date), True, True),
        (one(dict[str, int]), one(dict[str, str]), True, True),
        (one(dict[str, int]), one(dict[str, float]), True, False),
        (one(dict[str, int]), one(dict[str, Annotated[int, Field(ge=0)]]), False, True),
        (one(dict[str, PART]), one(dict[str, LONGER_PART]), False, True),
        (one(dict[str, PART]), one(dict[str, OTHER_PART]), True, True),
        (one(dict[str, int]), one(dict[str, Any]), True, False),
        (one(dict[str, Any]), one(PART), False, True),
        (one(PART), one(dict[str, int]), True, False),
        (one(list[int]), one(tuple[int, int]), False, True),
        (one(tuple[int, int]), one(list[int]), True, False),
        (one(tuple[int, int]), one(tuple[int, int, int]), True, True),
        (one(list[int]), one(set[int]), False, False),
        (one(Annotated[int, Field(gt=0)]), one(Annotated[int, Field(ge=1)]), False, False),
        (one(Annotated[int, Field(ge=1)]), one(Annotated[int, Field(gt=0)]), False, False),
        (one(Annotated[int, Field(ge=1)]), one(Annotated[int, Field(gt=1)]), False, True),
        (one(Annotated[float, Field(gt=0)]), one(Annotated[float, Field(ge=0)]), False, False),
        (one(Annotated[float, Field(le=9)]), one(Annotated[float, Field(lt=9)]), False, True),
        (one(Annotated[int, Field(multiple_of=4)]), one(Annotated[int, Field(multiple_of=2)]), False, False),
        (one(Annotated[int, Field(multiple_of=2)]), one(Annotated[int, Field(multiple_of=4)]), False, True),
        (one(Literal["a"]), one(Literal["a", "b"]), True, False),
        (one(Literal["a"]), one(str), True, False),
        (one(str), one(LONG), False, True),
        (one(str), one(Annotated[str, Field(max_length=0)]), False, True),
        (one(str), one(Annotated[str, Field(min_length=0)]), False, False),
        (one(int | None, None), one(int, 1), False, True),
        (one(int), one(int | str), True, False),
        (one(tagged("a", "b")), one(tagged("a", "b", "c")), True, False),
        (one(tagged("a", "b", "c")), one(tagged("a", "b")), False, True),
        (one(node(int) | None), one(node(int) | None), False, False),
        (one(node(int) | None), one(node(float) | None), True, False),
        # what is compared once in a choice is compared again where it stands alone
        (model("Message", u=(PART | str, ...), v=(PART, ...)),) * 2 + (False, False),
        (
            model("Message", u=(PART | dict[str, int], ...), v=(PART, ...)),
            model("Message", u=(OTHER_PART | dict[str, int], ...), v=(OTHER_PART, ...)),
            True,
            True,
        ),
    ],
)
def test_each_change_is_judged_for_those_who_read_and_for_those_who_write(
    old: Any, new: Any, breaks_readers: bool, breaks_writers: bool
) -> None:
    other = model("Other")
    read = breaking_changes(document(old, other), document(new, other))
    written = breaking_changes(document(other, old), document(other, new))
    assert (bool(read), bool(written)) == (breaks_readers, breaks_writers), (read, written)


@pytest.mark.parametrize(("old", "new", "breaks"), [(int, str, False), (str, int, True), (int, float, False)])
def test_parameters_may_be_called_otherwise_and_take_more(old: Any, new: Any, breaks: bool) -> None:
    message = model("Message", **OLD)
    changes = breaking_changes(document(message, number=old), document(message, pattern="room:{id}", number=new))
    assert bool(changes) == breaks, changes


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
    assert run("--typescript", "src/made/channels.ts")[0] == 0  # as the page writes it in a fresh folder
    assert (tmp_path / "src" / "made" / "channels.ts").exists()
    code, text = run("--typescript", "example.py/channels.ts")
    assert (code, text) == (2, "error: example.py/channels.ts cannot be written: File exists\n")
