"""`tidewire status`, `top`, `connections`, `channels`, `disconnect` and `why`: against a server, or a store."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tidewire.cli import flags
from tidewire.cli.operator_targets import Call, observed
from tidewire.cli.terminal import count, out, say
from tidewire.errors import StoreUnavailable
from tidewire.server.logs import harmless

__all__ = ("channels", "connections", "disconnect", "status", "top", "why")

T = TypeVar("T")

Server = Annotated[
    str | None, typer.Option("--server", metavar="URL", help="Ask a server; without it, the nodes of the store.")
]
KeyFile = Annotated[
    Path | None, typer.Option("--key-file", help="The key of its HTTP API (or TIDEWIRE_HTTP_API__KEY).")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, for a program.")]
Search = Annotated[str, typer.Argument(metavar="[TEXT]", help="Only those with this text in them.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=500, help="How many.")]
Offset = Annotated[int, typer.Option("--offset", min=0, help="How many to leave out before.")]
User = Annotated[str, typer.Argument(metavar="USER", help='A user; "" for strangers.')]

#: The figures that are shown of each node with their titles, which leave its name some room in 80 columns; the rates
#: among them; and those that are rates of all nodes together.
_FIGURES = {
    "connections": "conns",
    "users": "users",
    "channels": "channels",
    "subscriptions": "subs",
    "unsent_bytes": "unsent",
}
_RATES = {"publications": "pub/s", "deliveries": "deliv/s"}
_TROUBLES = {"refusals": "refused", "slow": "slow clients", "gaps": "gaps"}
#: Columns of a table that is written to a file or a pipe.
_UNSEEN = 1_000


def status(
    config: flags.Config = None,
    broker: flags.Broker = None,
    server: Server = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the nodes with their connections, rates and troubles, on one screen."""

    async def work(call: Call) -> None:
        before = await call("status", {})
        if as_json:
            _print(before)
            return
        await asyncio.sleep(1.0)
        _show(_screen(before, await call("status", {})))

    _run(config, broker, server, key_file, work)


def top(
    config: flags.Config = None,
    broker: flags.Broker = None,
    server: Server = None,
    key_file: KeyFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON each second, for a program.")] = False,
) -> None:
    """Show the same live, until Ctrl+C."""
    with contextlib.suppress(KeyboardInterrupt):
        _run(config, broker, server, key_file, _print_live if as_json else _show_live)


async def _print_live(call: Call) -> None:
    _print(await call("status", {}))
    while True:
        await asyncio.sleep(1.0)
        with contextlib.suppress(StoreUnavailable):  # while nothing answers, no line comes
            _print(await call("status", {}))


async def _show_live(call: Call) -> None:
    from rich.live import Live

    before = after = await call("status", {})
    with Live(_screen(before, before), console=out, screen=out.is_terminal, auto_refresh=False) as live:
        while True:
            await asyncio.sleep(1.0)
            try:
                before, after = after, await call("status", {})
            except StoreUnavailable:
                live.update(Group(_screen(before, after), Text("no answer: these figures are its last", "red")))
                live.refresh()
            else:
                live.update(_screen(before, after), refresh=True)


class _List(NamedTuple):
    """A list of all nodes: the call that asks for it, its key in the answer, its columns, and the cells of a row."""

    call: str
    key: str
    columns: tuple[str, ...]
    cells: Callable[[dict[str, Any]], tuple[object, ...]]


def _list_command(listed: _List, help_: str) -> Callable[..., None]:
    """Make the command that shows a list."""

    def command(
        search: Search = "",
        limit: Limit = 50,
        offset: Offset = 0,
        config: flags.Config = None,
        broker: flags.Broker = None,
        server: Server = None,
        key_file: KeyFile = None,
        as_json: AsJson = False,
    ) -> None:
        async def work(call: Call) -> None:
            found = await call(listed.call, {"search": search, "limit": limit, "offset": offset})
            if as_json:
                _print(found)
                return
            table = _list(listed.columns, [listed.cells(row) for row in found[listed.key]])
            _show(table)
            if found["total"] > table.row_count:
                total = count(found["total"], listed.key.removesuffix("s"))
                out.print(f"{table.row_count} of {total}; --limit and --offset show others")

        _run(config, broker, server, key_file, work)

    command.__doc__ = help_
    return command


def _connection_cells(row: dict[str, Any]) -> tuple[object, ...]:
    names = ", ".join(row["channels"][:3]) + (" …" if row["subscriptions"] > 3 else "")
    protocol = row["protocol"] if row["kind"] == "websocket" else f"{row['protocol']} ({row['kind']})"
    cells = (row["client"], row["user"], row["address"], _age(row["age"]), protocol, row["state"])
    return (*cells, _bytes(row["unsent"]) if row["unsent"] else "", names, row["error"])


def _channel_cells(row: dict[str, Any]) -> tuple[object, ...]:
    history = f"{row['history_size']} for {_age(row['history_seconds'])}" if row["history_size"] else "none"
    return (row["channel"], row["subscribers"], row["offset"], history, row["pattern"], row["slow"])


connections = _list_command(
    _List(
        "connection_list",
        "connections",
        ("connection", "user", "address", "age", "protocol", "state", "unsent", "channels", "last error"),
        _connection_cells,
    ),
    "List the connections of all nodes, the newest first.",
)
channels = _list_command(
    _List(
        "channel_list",
        "channels",
        ("channel", "subscribers", "offset", "history", "pattern", "slow clients"),
        _channel_cells,
    ),
    "List the channels that have subscribers, those with the most first.",
)


def disconnect(
    user: User,
    client: Annotated[str, typer.Option("--connection", metavar="ID", help="Only this connection of the user.")] = "",
    config: flags.Config = None,
    broker: flags.Broker = None,
    server: Server = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """End the connections of a user on all nodes, so that they do not come back by themselves."""

    async def work(call: Call) -> None:
        found = await call("connection_list", {"user": user, "limit": 500})
        rows = [row for row in found["connections"] if client in ("", row["client"])]
        await call("disconnect", {"user": user, "client": client})
        if as_json:
            _print({"disconnected": [row["client"] for row in rows]})
        else:
            say(f"disconnected {count(len(rows), 'connection')}")

    _run(config, broker, server, key_file, work)


def why(
    user: User,
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="A channel, e.g. room:lobby.")],
    action: Annotated[
        str, typer.Argument(metavar="[ACTION]", help="subscribe, publish, remove, history or presence.")
    ] = "publish",
    config: flags.Config = None,
    broker: flags.Broker = None,
    server: Server = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Tell whether a user may do something in a channel, and the rule that decides; exit code 1: it may not."""

    async def work(call: Call) -> bool:
        found = await call("why", {"user": user, "channel": channel, "action": action})
        if as_json:
            _print(found)
        else:
            verdict = "may" if found["allowed"] else "may not"
            name = user or "a stranger"
            out.print(harmless(f"{name} {verdict} {action} in {channel}: {found['reason']}"), markup=False)
            out.print(harmless(f"rule {found['rule']}"), markup=False)
        return bool(found["allowed"])

    if not _run(config, broker, server, key_file, work):
        raise typer.Exit(1)


def _run(
    config: Path | None,
    broker: str | None,
    server: str | None,
    key_file: Path | None,
    work: Callable[[Call], Awaitable[T]],
) -> T:
    async def run() -> T:
        async with observed(config, broker, server, key_file) as call:
            return await work(call)

    return asyncio.run(run())


def _screen(before: dict[str, Any], after: dict[str, Any]) -> Group:
    earlier = {node["node"]: node for node in before["nodes"]}
    table = _table("node", "up", *_FIGURES.values(), *_RATES.values())
    names, rates = (*_FIGURES, *_RATES), (*_RATES, *_TROUBLES)
    sums = dict.fromkeys((*_FIGURES, *rates), 0.0)
    for node in after["nodes"]:
        old = earlier.get(node["node"], node)
        seconds = max(node["uptime"] - old["uptime"], 0.001)
        figures = {name: node[name] for name in _FIGURES}
        figures |= {name: (node[name] - old[name]) / seconds for name in rates}
        sums = {name: total + figures[name] for name, total in sums.items()}
        table.add_row(*map(_cell, (_name(node), _age(node["uptime"]), *(_figure(name, figures) for name in names))))
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_section()
    cells = {name: _figure(name, sums) for name in names} | {"channels": _distinct(after["nodes"])}
    table.add_row("all", str(len(after["nodes"])), *cells.values(), style="bold")
    away = [_name(node) for node in after["nodes"] if node["degraded"]]
    store = Text(harmless(f"store: away for {', '.join(away)}"), "red") if away else Text("store: answers", "green")
    now = Text("now: " + ", ".join(f"{title} {_number(sums[name])}/s" for name, title in _TROUBLES.items()))
    return Group(table, store, now, *_troubles(after))


def _name(node: dict[str, Any]) -> str:
    return f"{node['host']}:{node['process']}"


def _figure(name: str, figures: dict[str, float]) -> str:
    return _bytes(figures[name]) if name == "unsent_bytes" else _number(figures[name])


def _distinct(nodes: list[dict[str, Any]]) -> str:
    """Return how many channels all nodes have together: each node knows its own, and two may have the same one."""
    counts = [int(node["channels"]) for node in nodes] or [0]
    least, most = max(counts), sum(counts)
    return _number(least) if least == most else f"{_number(least)}–{_number(most)}"


def _troubles(after: dict[str, Any]) -> list[Text]:
    lines = []
    for metric, words in (("refusals", "refused since the start"), ("limits_reached", "limits reached")):
        sums: dict[str, float] = {}
        for node in after["nodes"]:
            for kind, number in node["parts"].get(metric, {}).items():
                sums[kind] = sums.get(kind, 0) + number
        if metric == "limits_reached" and (waited := sums.pop("arrivals", 0)):
            lines.append(Text(f"newcomers that waited for a turn (arrivals), none refused: {_number(waited)}"))
        if sums:
            most = sorted(sums.items(), key=lambda item: -item[1])[:6]
            lines.append(Text(f"{words}: " + ", ".join(f"{kind} {_number(number)}" for kind, number in most)))
    return lines


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")  # a value that is longer than its column is wrapped
    return table


def _list(columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> Table:
    """Return a table without the columns that are empty in every row; the first column is never cut."""
    kept = [at for at in range(len(columns)) if not rows or any(row[at] for row in rows)]
    table = _table(*(columns[at] for at in kept))
    table.columns[0].no_wrap = True
    table.columns[0].min_width = min(max((len(str(row[0])) for row in rows), default=0), 32)
    for row in rows:
        table.add_row(*(_cell(row[at]) for at in kept))
    return table


def _show(what: RenderableType) -> None:
    """Print a table: into a file or a pipe, with all of its columns."""
    if not out.is_terminal:
        out.width = _UNSEEN
    out.print(what)


def _cell(value: object) -> Text:
    return Text(harmless(str(value)))


def _number(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 or number == int(number) else f"{number:.1f}"


def _bytes(number: float) -> str:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f} B"


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _print(value: object) -> None:
    print(json.dumps(value, ensure_ascii=True), flush=True)
