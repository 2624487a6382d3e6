"""The runs for the pipeline commands: in the folder of the settings, or at a server."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from tidewire.cli.operator_targets import Unredirected
from tidewire.errors import ConfigurationError, StoreUnavailable
from tidewire.hub import Hub
from tidewire.pipelines.errors import PipelineError
from tidewire.pipelines.folders import FileFacts
from tidewire.pipelines.naming import readable
from tidewire.pipelines.programs import Missing, missing_programs
from tidewire.pipelines.runs import Run
from tidewire.pipelines.service import LogPart, Pipelines, Started
from tidewire.server.pipeline_setup import server_pipelines
from tidewire.server.settings import Settings

__all__ = ("Listed", "Source", "here", "there")

T = TypeVar("T")
_HTTP_SECONDS = 30.0
#: Explanations of answers that do not come from tidewire, but from a proxy before it.
_HINTS = {413: ": the file is larger than its proxy allows (client_max_body_size of nginx)"}


class _Http(http.client.HTTPConnection):
    """Reads the answer of a server that refuses a request before it has read all of it."""

    def request(self, *args: Any, **options: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            super().request(*args, **options)


class _Https(_Http, http.client.HTTPSConnection):
    """The same over TLS."""


class _HttpHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Http, req)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Https, req)


_opener = urllib.request.build_opener(_HttpHandler, _HttpsHandler, Unredirected)


class Listed(msgspec.Struct, frozen=True):
    """One entry of the list of pipelines."""

    name: str
    title: str
    description: str = ""
    missing: tuple[Missing, ...] = ()


class _AllListed(msgspec.Struct, frozen=True):
    pipelines: tuple[Listed, ...]


class _Uploaded(msgspec.Struct, frozen=True):
    upload: str


class _OneRun(msgspec.Struct, frozen=True):
    run: Run


class _Results(msgspec.Struct, frozen=True):
    results: list[FileFacts]


class _Runs(msgspec.Struct, frozen=True):
    runs: list[Run]


class Source(ABC):
    """Pipelines and runs, of this machine or of a server."""

    #: True: started runs live in this process, and end with it.
    is_here: bool

    @abstractmethod
    async def pipelines(self) -> list[Listed]:
        """Return all pipelines."""

    @abstractmethod
    async def start(self, name: str, sample: str, inputs: Mapping[str, Path], *, new: bool) -> Started:
        """Start or join a run."""

    @abstractmethod
    async def runs(self, limit: int) -> list[Run]:
        """Return the newest runs."""

    @abstractmethod
    async def run(self, run: str) -> Run:
        """Return one run."""

    @abstractmethod
    async def log(self, run: str, step: str, start: int) -> LogPart:
        """Return a part of a log."""

    @abstractmethod
    async def results(self, run: str) -> list[str]:
        """Return the places of the results of a run, reports first: paths here, URLs at a server."""

    @abstractmethod
    async def cancel(self, run: str) -> Run:
        """Cancel a run."""

    @abstractmethod
    async def resume(self, run: str) -> Run:
        """Resume a run."""


class _Here(Source):
    is_here = True

    def __init__(self, pipelines: Pipelines) -> None:
        self._pipelines = pipelines

    async def pipelines(self) -> list[Listed]:
        return [
            Listed(found.name, found.title or found.name, found.description, tuple(missing_programs(found)))
            for found in self._pipelines.definitions.values()
        ]

    async def start(self, name: str, sample: str, inputs: Mapping[str, Path], *, new: bool) -> Started:
        return await self._pipelines.start(name, sample, inputs=inputs, new=new)

    async def runs(self, limit: int) -> list[Run]:
        return await self._pipelines.runs(limit=limit)

    async def run(self, run: str) -> Run:
        return await self._pipelines.run(run)

    async def log(self, run: str, step: str, start: int) -> LogPart:
        return await self._pipelines.log(run, step, start=start)

    async def results(self, run: str) -> list[str]:
        found = [file for file in await self._pipelines.results(run) if not file.problem]
        return [str(await self._pipelines.result(run, file.name)) for file in found]

    async def cancel(self, run: str) -> Run:
        return await self._pipelines.cancel(run)

    async def resume(self, run: str) -> Run:
        return await self._pipelines.resume(run)


@asynccontextmanager
async def here(settings: Settings) -> AsyncIterator[Source]:
    """Open the folder of runs of the settings, beside a server if there is one."""
    async with Hub(settings.broker, limits=settings.limits) as hub, server_pipelines(settings, hub) as pipelines:
        yield _Here(pipelines)


class _There(Source):
    is_here = False

    def __init__(self, url: str, token: str) -> None:
        self._url = f"{url.rstrip('/')}/api/pipelines"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def pipelines(self) -> list[Listed]:
        answer, _ = await self._ask("GET", "/")
        return list(self._decoded(answer, _AllListed).pipelines)

    async def start(self, name: str, sample: str, inputs: Mapping[str, Path], *, new: bool) -> Started:
        given = {key: {"upload": await self._upload(path, name, key)} for key, path in inputs.items()}
        body = {"pipeline": name, "sample": sample, "inputs": given, "new": new}
        answer, _ = await self._ask("POST", "/runs", json.dumps(body).encode())
        return self._decoded(answer, Started)

    async def _upload(self, path: Path, pipeline: str, key: str) -> str:
        query = urlencode({"name": readable(path.name), "pipeline": pipeline, "input": key})
        try:
            with path.open("rb") as file:
                answer, _ = await self._ask("POST", f"/uploads?{query}", file, length=os.fstat(file.fileno()).st_size)
        except OSError as error:
            raise ConfigurationError(f"{readable(str(path))} cannot be read ({error.strerror})") from None
        return self._decoded(answer, _Uploaded).upload

    async def runs(self, limit: int) -> list[Run]:
        answer, _ = await self._ask("GET", f"/runs?limit={limit}")
        return self._decoded(answer, _Runs).runs

    async def run(self, run: str) -> Run:
        return await self._one("GET", f"/runs/{quote(run, safe='')}")

    async def log(self, run: str, step: str, start: int) -> LogPart:
        query = urlencode({"step": step, "from": start})
        data, headers = await self._ask("GET", f"/runs/{quote(run, safe='')}/log?{query}")
        if not all(name in headers for name in ("Log-Step", "Log-From", "Log-Size")):
            raise self._is_another()
        return LogPart(headers["Log-Step"], int(headers["Log-From"]), data, int(headers["Log-Size"]))

    async def results(self, run: str) -> list[str]:
        place = f"/runs/{quote(run, safe='')}/results"
        answer, _ = await self._ask("GET", place)
        found = self._decoded(answer, _Results).results
        shown = {True: "?show=1", False: ""}
        return [f"{self._url}{place}/{quote(file.name)}{shown[file.show]}" for file in found if not file.problem]

    async def cancel(self, run: str) -> Run:
        return await self._one("POST", f"/runs/{quote(run, safe='')}/cancel")

    async def resume(self, run: str) -> Run:
        return await self._one("POST", f"/runs/{quote(run, safe='')}/resume")

    async def _one(self, method: str, path: str) -> Run:
        answer, _ = await self._ask(method, path)
        return self._decoded(answer, _OneRun).run

    def _decoded(self, answer: bytes, type_: type[T]) -> T:
        try:
            return msgspec.json.decode(answer, type=type_)
        except msgspec.DecodeError:
            raise self._is_another() from None

    def _is_another(self) -> ConfigurationError:
        """Return the error for an address where something else answers: a website, or the login page of a proxy."""
        return ConfigurationError(f"{self._url} is not that of a tidewire server; write its own, as --server URL")

    async def _ask(self, method: str, path: str, body: Any = None, *, length: int | None = None) -> tuple[bytes, Any]:
        return await asyncio.to_thread(self._ask_now, method, path, body, length)

    def _ask_now(self, method: str, path: str, body: Any, length: int | None) -> tuple[bytes, Any]:
        headers = self._headers | ({"Content-Length": str(length)} if length is not None else {})
        request = urllib.request.Request(self._url + path, body, headers, method=method)
        try:
            with _opener.open(request, timeout=_HTTP_SECONDS) as answer:
                return answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            with error:
                raise PipelineError(_detail(error)) from None
        except (OSError, http.client.HTTPException) as error:
            raise StoreUnavailable(f"{self._url} does not answer ({error}); is the server running?") from None


def _detail(error: urllib.error.HTTPError) -> str:
    if 300 <= error.code < 400:  # nobody goes there: the token would go, too
        elsewhere = error.headers.get("Location", "").partition("/api/")[0]
        return f"the server sends its visitors to {elsewhere or 'nowhere'}; if that is yours, ask it: --server URL"
    try:
        return str(json.loads(error.read())["detail"])
    except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
        hint = _HINTS.get(error.code, "")
        return f"the server answered with HTTP {error.code}{hint}"


@asynccontextmanager
async def there(url: str, token_file: Path | None) -> AsyncIterator[Source]:
    """Ask a server, with the token of a file or of the variable TIDEWIRE_TOKEN."""
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"--server {url!r} is no URL; write it as http://127.0.0.1:8000")
    yield _There(url, _token(token_file))


def _token(file: Path | None) -> str:
    try:
        return file.read_text().strip() if file else os.environ.get("TIDEWIRE_TOKEN", "")
    except OSError as error:
        raise ConfigurationError(
            f"{file} cannot be read ({error.strerror}); `tidewire token NAME` prints one"
        ) from None
