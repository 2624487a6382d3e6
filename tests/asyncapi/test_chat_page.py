"""The chat of the server is typed end to end: its document, what it sends, and its page agree, or a test fails."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

import tidewire
from asyncapi.test_document import judge
from helpers.node_packages import node_modules
from tidewire.asyncapi.compatibility import breaking_changes
from tidewire.errors import BadRequest
from tidewire.messages import Dropped, Position, Publication, Subscribed
from tidewire.protocols import chat
from tidewire.server.app import create_app
from tidewire.server.chat_types import SHOWN
from tidewire.server.settings import Settings

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
JS = Path(tidewire.__file__).parent / "server" / "ui" / "js"
#: Fields of messages, each with a module of the page that reads or writes it.
RENAMED = {
    "content": "rooms.js", "sender": "conversations.js", "messages": "rooms.js", "users": "rooms.js",
    "target_user": "client.js", "before": "rooms.js", "more": "rooms.js", "offset": "conversations.js",
}  # fmt: skip


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    app = create_app(Settings())
    found: dict[str, Any] = app.state.hub.asyncapi(app)
    return found


def test_the_types_of_the_page_are_those_of_the_models() -> None:
    written = runpy.run_path(str(ROOT / ".ci" / "page_types.py"))["text"]()
    assert (JS / "channels.ts").read_text() == written, "run `make page-types`, and mend the page where tsc wants it"


def test_all_that_is_sent_has_its_types() -> None:
    def kept(message: Any, channel: str = "room:tea", offset: int = 3) -> Publication:
        data = message if isinstance(message, bytes) else msgspec.json.encode(message)
        return Publication(channel, offset, offset - 1, "e", 1_700_000_000.0, data)

    said = kept(chat.ChatMessage("ann", "hello", "id-1", "tea"))
    away = kept(chat.PrivateChatMessage("ann", "bob", "psst"), "user:bob")
    notice, foreign = kept(chat.System("User 'ann' has joined the chat.", room="tea")), kept(b'{"x":1}', offset=4)
    reply = Subscribed("room:tea", Position(4, "e"), (said, notice, foreign), True)
    raw = [chat.CHAT.raw(one) for one in (said, foreign)]
    sent = [
        *(chat.CHAT.encode_publication(one) for one in (said, away, notice, foreign)),
        *chat.CHAT.encode_subscribed(reply),
        chat.CHAT.encode_error(BadRequest("no")),
        chat.CHAT.encode_dropped(Dropped("room:tea", 3)),
        chat.CHAT.encode(chat.EarlierMessages(raw, "e", True, "tea")),
        chat.CHAT.encode(chat.Inbox([chat.CHAT.raw(away)], 1, "e", False)),
        chat.CHAT.encode(chat.OnlineUsers(["ann"], "tea")),
        chat.CHAT.encode(chat.RoomList([chat.RoomEntry("tea", 1)])),
        chat.CHAT.encode(chat.Left("tea")),
        chat.CHAT.encode(chat.Pong()),
    ]
    for message in sent:
        shown = msgspec.json.decode(message.data, type=SHOWN)
        assert json.loads(msgspec.json.encode(shown)) == json.loads(message.data)


def test_a_renamed_field_breaks_the_page_and_the_comparison(document: dict[str, Any], tmp_path: Path) -> None:
    written = (JS / "channels.ts").read_text()
    renamed = re.sub(rf"^  ({'|'.join(RENAMED)})(\??): ", r"  \1s\2: ", written, flags=re.MULTILINE)
    for folder, text in (("right", written), ("wrong", renamed)):
        (tmp_path / folder).mkdir()
        for file in JS.glob("*.js"):
            shutil.copy(file, tmp_path / folder)
        (tmp_path / folder / "channels.ts").write_text(text)
    options = {"allowJs": True, "checkJs": True, "noEmit": True, "module": "esnext", "moduleResolution": "bundler"}
    options |= {"target": "es2023", "lib": ["es2023", "dom", "dom.iterable"], "types": [], "strict": False}
    included = ["right/client.js", "wrong/client.js"]  # in one compilation, which takes seconds
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "include": included}))
    command = ["node", str(node_modules(HERE) / "node_modules/typescript/bin/tsc"), "--pretty", "false"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False).stdout
    assert "right/" not in told
    for field, file in RENAMED.items():
        assert re.search(rf"^wrong/{file}\(.*\b{field}\b", told, re.MULTILINE), (field, told)
    changed = json.loads(json.dumps(document).replace('"content"', '"contents"').replace('"target_user"', '"to"'))
    found = "\n".join(breaking_changes(document, changed))
    assert "content" in found
    assert "accepted PrivateChat" in found
    assert breaking_changes(document, document) == []


@pytest.mark.slow
def test_the_document_of_the_ready_server_passes_the_official_parser(document: dict[str, Any], tmp_path: Path) -> None:
    judge(tmp_path, document)
