"""What README says of the measurements, made from the stored results."""

from __future__ import annotations

import textwrap
from pathlib import Path

from bench.bars import Medians, connect_rate, messages, only, per_connection
from bench.results import Results

__all__ = ("paragraphs", "write")

BEGIN, END = "<!-- from docs/bench/results.json -->", "<!-- end -->"
PLACE = "__"


def write(path: Path, results: Results) -> None:
    """Renew what stands between the marks."""
    text = path.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    path.write_text(f"{head}{BEGIN}\n{paragraphs(results)}\n{END}{tail}")


def written(path: Path) -> str:
    """Return what stands between the marks."""
    return path.read_text().partition(BEGIN)[2].partition(END)[0].strip()


def paragraphs(results: Results) -> str:
    """Return the two paragraphs."""
    medians = Medians(results.runs)
    return "\n\n".join(textwrap.fill(text, 119) for text in (_large(medians, results), _small(medians, results)))


def _large(medians: Medians, results: Results) -> str:
    rate = {
        name: _millions(medians.fanout(name))
        for name in ("ours-served-memory", "ours-served-sqlite", "ours-json-memory", "ours-protobuf-memory")
    }
    peers = ", ".join(
        f"{what} {_millions(medians.fanout(name))}"
        for name, what in (("nats-server", "nats-server"), ("node-ws", "Node's `ws`"), ("tutorial", "the tutorial"))
    )
    idle = [_kib(only(medians, "idle", f"ours-{kind}-memory", per_connection)) for kind in ("served", "endpoint")]
    return (
        f"One core, one channel, 1,000 subscribers, 128-byte messages, every delivery checked: "
        f"{rate['ours-served-memory']} million deliveries a second; in the same run, in millions, {peers}. "
        f"{rate['ours-served-sqlite']} million with every message fsynced first, {rate['ours-json-memory']} in JSON "
        f"and {rate['ours-protobuf-memory']} in Protobuf of the Centrifuge protocol. An idle connection costs "
        f"{idle[0]} KiB on a served protocol, {idle[1]} KiB in an endpoint ({_stamp(results, 'fanout')})."
    )


def _small(medians: Medians, results: Results) -> str:
    def publishes(name: str) -> str:
        return " / ".join(_count(medians.of("few", name, count, messages)) for count in (2, 10, 100))

    def connects(name: str) -> str:
        return _count(only(medians, "connect", name, connect_rate))

    def times_as_fast(window: int) -> str:
        ours, theirs = (medians.of("echo", name, window, messages) for name in ("ours-bare", "uvicorn-bare"))
        return f"{ours / theirs:.2g}" if ours and theirs else PLACE

    return (
        f"Small work: one connection publishes {publishes('ours-endpoint-memory')} messages a second to 2 / 10 / 100 "
        f"subscribers (a Go server on the Centrifuge library: {publishes('go-centrifuge')}; uWebSockets: "
        f"{publishes('socketify')}); {connects('ours-served-memory')} clients connect in a second, "
        f"{connects('ours-endpoint-memory')} to an endpoint (uvicorn with FastAPI: {connects('uvicorn-fastapi')}, "
        f"Node: {connects('node-ws')}); an echo under `tidewire run` is {times_as_fast(64)} times as fast as under "
        f"uvicorn with 64 messages under way, and {times_as_fast(1)} times with one ({_stamp(results, 'few')})."
    )


def _stamp(results: Results, work: str) -> str:
    stamp = results.works.get(work)
    return f"{stamp.date}, commit {stamp.commit}" if stamp else "not measured"


def _millions(value: float | None) -> str:
    return PLACE if value is None else f"{value / 1e6:.2g}" if value < 1e7 else f"{value / 1e6:.1f}"


def _count(value: float | None) -> str:
    return PLACE if value is None else f"{round(value, -2):,.0f}"


def _kib(value: float | None) -> str:
    return PLACE if value is None else f"{value / 1024:.0f}"
