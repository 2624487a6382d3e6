"""Frames of strangers: good, mutated and random ones in both encodings, over sessions of a real node.

    python -m centrifuge.fuzz --frames 1000000 --seed 1     (from the folder `tests`)

Whatever comes, nothing may be logged as a fault, no session may stay behind, and the node must serve as before.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import random
import resource
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from sessions.centrifuge.authority import OPTIONS, WordAuthority
from sessions.centrifuge.support import JSON, PATTERNS, PROTOBUF, Client, begin, connect
from tidewire.backends.memory import MemoryBroker, MemoryPresence
from tidewire.engine.node import Node
from tidewire.limits import Limits
from tidewire.protocols.centrifuge.encoding import CentrifugeProtocol
from tidewire.protocols.centrifuge.messages import Command, Reply
from tidewire.protocols.centrifuge.protobuf import decode_frame, encode_delimited
from tidewire.protocols.meta import is_history
from tidewire.rules.options_by_name import OptionsByName
from tidewire.sessions.centrifuge.directory import Sessions
from tidewire.sessions.centrifuge.session import Session
from tidewire.testing import wait_until

__all__ = ("Fuzzer", "fuzz")

#: Frames of one connection before it is left.
_FRAMES = 12
#: Ends that the protocol knows.
CODES = {1009, 1013, 3004, 3005, 3006, 3008, 3010, 3012, 3013, 3500, 3501, 3502, 3508}

_CHANNELS = ["plain", "forbidden", "refused", "é", "nowhere:a", "$control", "$user:ann", "x" * 300]
_CHANNELS += [f"{name}:{letter}" for name in OPTIONS if name for letter in "ab"]
_TOKENS = [
    "",
    "user:ann",
    "user:bob ttl:60",
    "user:ann subs:history:a,recovery:b",
    "expired",
    "bad",
    "ttl:60",
    "ttl:-1",
]
_VALUES: list[Any] = [None, True, 0, -1, 2**64, 1e308, "", "a", "\u0000", [], {}, [[]], {"a": {"b": [1]}}, "x" * 2000]
_FIELDS = ["recover", "positioned", "recoverable", "join_leave", "reverse"]


class Fuzzer:
    """Makes frames from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def frame(self, protocol: CentrifugeProtocol) -> str | bytes:
        """Return one frame of some kind."""
        choice, binary = self._random, protocol is PROTOBUF
        kind = choice.random()
        if kind < 0.03:
            data = choice.randbytes(choice.choice((0, 1, 2, 5, 40, 400)))
        else:
            commands = [self._command() for _ in range(choice.choice((1, 1, 1, 2, 5)))]
            data = self._encode(commands, binary)
            if kind < 0.2:
                data = self._mutate(data)
        if binary != (choice.random() < 0.005):
            return data
        return data.decode(errors="replace")

    def _encode(self, commands: Sequence[dict[str, Any]], binary: bool) -> bytes:
        texts = [msgspec.json.encode(command) for command in commands]
        if not binary:
            return b"\n".join(texts)
        found = []
        for text in texts:
            try:
                found.append(encode_delimited(msgspec.json.decode(text, type=Command)))
            except msgspec.MsgspecError:
                found.append(text)
        return b"".join(found)

    def _command(self) -> dict[str, Any]:
        choice = self._random
        if choice.random() < 0.01:
            return {}
        rare = ["connect", "refresh", "ping", "nonsense"]
        method = choice.choice(rare if choice.random() < 0.03 else _USUAL)
        make = _REQUESTS.get(method)
        request = make(self) if make is not None else {}
        command: dict[str, Any] = {
            "id": choice.choice((2**32, 0) if choice.random() < 0.01 else (1, 2, 3, 2**32 - 1)),
            method: request,
        }
        if method == "send":
            del command["id"]
        if choice.random() < 0.04:
            place = request if choice.random() < 0.8 else command
            place[choice.choice([*place, "more"])] = choice.choice(_VALUES)
        return command

    def _mutate(self, data: bytes) -> bytes:
        choice, mutated = self._random, bytearray(data)
        for _ in range(choice.choice((1, 1, 2, 8))):
            at = choice.randrange(len(mutated) + 1)
            kind = choice.randrange(5)
            if kind == 0:
                mutated[at:at] = choice.randbytes(choice.choice((1, 2, 9)))
            elif kind == 1:
                del mutated[at : at + choice.choice((1, 3, 30))]
            elif kind == 2 and at < len(mutated):
                mutated[at] ^= 1 << choice.randrange(8)
            elif kind == 3:
                mutated[at:at] = mutated[: choice.choice((5, 50))]
            else:
                mutated[at:at] = choice.choice((b"\n", b"\n\n", b"[" * 80, b"\xff" * 11, b"{}", b"null", b"\x00"))
        return bytes(mutated)

    # Requests.

    def channel(self) -> str:
        return "" if self._random.random() < 0.005 else self._random.choice(_CHANNELS)

    def token(self) -> str:
        return self._random.choice(_TOKENS)

    def data(self) -> Any:
        return self._random.choice(_VALUES)

    def position(self) -> dict[str, Any]:
        choice = self._random
        return {"offset": choice.choice((0, 1, 5, 2**53, 2**63)), "epoch": choice.choice(("", "_", "x"))}

    def connect(self) -> dict[str, Any]:
        subs = {self.channel(): {"recover": True, **self.position()} for _ in range(self._random.randrange(3))}
        return {"token": self.token(), "data": self.data(), "subs": subs, "name": "fuzz", "headers": {"a": "b"}}

    def subscribe(self) -> dict[str, Any]:
        choice = self._random
        request: dict[str, Any] = {"channel": self.channel(), "token": self.token(), "data": self.data()}
        request |= {name: True for name in _FIELDS[:4] if choice.random() < 0.3}
        if choice.random() < 0.3:
            request |= self.position()
        if choice.random() < 0.2:
            request["tf"] = self.filter(choice.randrange(4))
        if choice.random() < 0.3:
            request["delta"] = "other" if choice.random() < 0.05 else "fossil"
        if choice.random() < 0.3:
            request |= {"type": choice.choice((1, 1, 1, 2, 3, 9)), "phase": choice.choice((0, 1, 2, 2, 7))}
            request |= {"cursor": choice.choice(("", "", "a", "zz")), "limit": choice.choice((0, 1, 2, -1, 10**6))}
        request["flag"] = choice.choice((0, 1, 2, 3, -1))
        return request

    def entry(self) -> dict[str, Any]:
        choice = self._random
        if choice.random() < 0.7:
            return {}
        return {
            "type": choice.choice((1, 1, 2, 9)),
            "key": choice.choice(("", "a", "zz", "k" * 300)),
            "removed": choice.random() < 0.3,
        }

    def filter(self, depth: int) -> dict[str, Any]:
        choice = self._random
        if depth == 0 or choice.random() < 0.4:
            cmp = choice.choice(("eq", "in", "ex", "sw", "lt", "gte", "huh"))
            return {"key": choice.choice("ab"), "cmp": cmp, "val": choice.choice(("1", "x")), "vals": ["1", "2"]}
        return {
            "op": choice.choice(("and", "or", "not", "xor")),
            "nodes": [self.filter(depth - 1)] * choice.randrange(3),
        }

    def history(self) -> dict[str, Any]:
        choice = self._random
        request: dict[str, Any] = {
            "channel": self.channel(),
            "limit": choice.choice((0, 1, -1, 10**6, -(2**31), 2**31)),
        }
        if choice.random() < 0.5:
            request |= {"since": self.position(), "reverse": choice.random() < 0.5}
        return request


_REQUESTS: dict[str, Callable[[Fuzzer], dict[str, Any]]] = {
    "connect": Fuzzer.connect,
    "subscribe": Fuzzer.subscribe,
    "unsubscribe": lambda fuzzer: {"channel": fuzzer.channel()},
    "publish": lambda fuzzer: {"channel": fuzzer.channel(), "data": fuzzer.data(), **fuzzer.entry()},
    "presence": lambda fuzzer: {"channel": fuzzer.channel()},
    "presence_stats": lambda fuzzer: {"channel": fuzzer.channel()},
    "history": Fuzzer.history,
    "rpc": lambda fuzzer: {"method": fuzzer._random.choice(("echo", "who", "bad", "")), "data": fuzzer.data()},
    "send": lambda fuzzer: {"data": fuzzer.data()},
    "refresh": lambda fuzzer: {"token": fuzzer.token()},
    "sub_refresh": lambda fuzzer: {"channel": fuzzer.channel(), "token": fuzzer.token()},
}


_USUAL = [method for method in _REQUESTS if method not in ("connect", "refresh")]


class _Faults(logging.Handler):
    """Keeps what is logged as a fault."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(self.format(record))


async def _one(node: Node, fuzzer: Fuzzer, seed: int, ends: Counter[int]) -> int:
    """Let one connection say some frames; returns how many it came to say."""
    choice = random.Random(seed)
    protocol = choice.choice((JSON, PROTOBUF))
    authority = WordAuthority()
    authority.has_listener = True
    client = await begin(node, authority, protocol=protocol)
    if choice.random() < 0.8:
        client.send({"id": 1, "connect": {"token": choice.choice(("", "user:ann", "user:ann subs:recovery:a"))}})
        await _settle(client)
    frames = 0
    for _ in range(_FRAMES):
        frames += 1
        client.raw(fuzzer.frame(protocol))
        await asyncio.sleep(0)
        if client.connection.is_closed:
            break
    await _settle(client)
    if client.link.closed_with is not None:
        code = client.link.closed_with[0]
        ends[code] += 1
        assert code in CODES, f"connection of seed {seed} ended with {client.link.closed_with}"
    _check_readable(client)
    client.link.vanish()
    return frames


def _check_readable(client: Client) -> None:
    """Read everything that was written."""
    for message in client.link.sent:
        if message.binary:
            assert decode_frame(Reply, message.data, depth=64)
        else:
            assert all(isinstance(json.loads(line), dict) for line in message.data.split(b"\n"))


async def _settle(client: Client) -> None:
    for turn in range(4_000):
        if client.connection.is_closed or not client.session.queue.is_running:
            return
        await asyncio.sleep(0 if turn < 2_000 else 0.005)  # some of it waits for a timer or a thread
    raise AssertionError("a session does not come to rest")


async def fuzz(frames: int, seed: int) -> Counter[int]:
    """Say so many frames; returns how connections ended. Raises AssertionError for what must not be."""
    faults = _Faults()
    logging.getLogger("tidewire").addHandler(faults)
    limits = Limits(rate=1e9, burst=10**9, connections_per_user=10**9)
    node = Node(MemoryBroker(), MemoryPresence(), limits=limits, options=OptionsByName(PATTERNS), is_shown=is_history)
    await node.start()
    ends: Counter[int] = Counter()
    fuzzer, said, number = Fuzzer(seed), 0, 0
    try:
        witness = await connect(node, channel="history:witness", pings=False)
        while said < frames:
            said += await _one(node, fuzzer, seed * 1_000_003 + number, ends)
            number += 1
            assert not faults.seen, f"seed {seed}, connection {number}: {faults.seen[0]}"
        await node.publish("history:witness", b'"still here"')
        await witness.wait_pushes("pub", channel="history:witness")
        await wait_until(lambda: len(node.registry.connections) == 1, what="every other connection is gone")
        await wait_until(lambda: len(Sessions.of(node)) == 1, what="every other session is gone")
        witness.link.vanish()
        await wait_until(lambda: not node.memberships._leaving, what="everybody has left")
        for channel in ("recovery:a", "$events:recovery:a", "presence:a", "$user:ann"):
            assert not await node.presence.members(channel), channel
        del witness
        gc.collect()
        left = [found for found in gc.get_objects() if isinstance(found, Session)]
        assert not left, f"{len(left)} sessions stay behind"
    finally:
        logging.getLogger("tidewire").removeHandler(faults)
        await node.aclose()
    return ends


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m centrifuge.fuzz", description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ends = asyncio.run(fuzz(options.frames, options.seed))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{options.frames} frames of seed {options.seed}: ends {dict(sorted(ends.items()))}, {grown:.0f} MiB grown")
    sys.exit(0)


if __name__ == "__main__":
    main()
