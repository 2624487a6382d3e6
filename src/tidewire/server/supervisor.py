"""Keeps several workers on one listening socket.

Workers that die or freeze are replaced. SIGTERM lets all drain and ends; SIGHUP replaces them one after another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Callable

from tidewire.errors import ConfigurationError
from tidewire.server.worker_job import MISCONFIGURED, ApplicationFailed, Job

__all__ = ("Supervisor",)

_log = logging.getLogger(__name__)

#: Seconds in which a worker must become ready; failed starts in a row after which the server ends if no worker serves.
_START_SECONDS, _STARTS = 60.0, 3
#: The longest pause before a worker that cannot start is tried again while others serve.
_RETRY_SECONDS = 30.0
#: Seconds beyond the drain after which a terminated worker is killed.
_ENDING_SECONDS = 5.0


class _Worker:
    """One worker process, seen from its supervisor."""

    def __init__(self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.process = process
        self.failure = ""
        self.drain_seconds = 0.0
        #: True: it serves; False: it ended before it served.
        self.ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        #: True: it is not replaced if it ends: it was terminated, or is a replacement that is not ready.
        self.leaving = False
        self._reader, self._writer = reader, writer

    @classmethod
    async def start(cls, job: Job, listener: socket.socket) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors = (theirs.fileno(), listener.fileno())
            # -P: a file of the current folder must not take the place of a module of the server.
            command = (sys.executable, "-P", "-m", "tidewire.server.worker", *map(str, descriptors))
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, pass_fds=descriptors
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(job.encode())
        return cls(process, reader, writer)

    async def watch(self, silence: float) -> None:
        """Return when the process has ended; kill it when it is silent for so many seconds."""
        report = b""
        try:
            while data := await self._read(silence):
                if data.startswith(b"="):
                    seconds, _, data = data[1:].partition(b"\n")
                    self.drain_seconds = float(seconds)
                if report or data.startswith(b"!"):
                    report += data
                elif data and not self.ready.done():
                    self.ready.set_result(True)
        except TimeoutError:
            _log.warning("worker %d says nothing any more: it is killed", self.process.pid)
            self.kill()
        except OSError as error:
            _log.debug("the channel of worker %d broke: %s", self.process.pid, error)
        self._writer.close()
        await self._end()
        self.failure = report[1:].decode(errors="replace")
        if not self.ready.done():
            self.ready.set_result(False)

    async def _read(self, silence: float) -> bytes:
        async with asyncio.timeout(silence if self.ready.done() else _START_SECONDS):
            return await self._reader.read(4_096)

    async def _end(self) -> None:
        try:
            async with asyncio.timeout(_ENDING_SECONDS):
                await self.process.wait()
        except TimeoutError:
            self.kill()
            await self.process.wait()

    def terminate(self) -> None:
        self.leaving = True
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


class Supervisor:
    """Runs `settings.workers` workers until a signal ends it."""

    def __init__(self, job: Job, listener: socket.socket, ready: Callable[[], None]) -> None:
        self._job = job
        self._listener = listener
        self._ready = ready
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self._stop = asyncio.Event()
        self._replace = asyncio.Event()
        self._failure: Exception | None = None

    async def run(self) -> None:
        """Return after SIGTERM or SIGINT, when every worker has ended. Raises the reason when no worker can start."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._replace.set)
        async with asyncio.TaskGroup() as self._group:
            for _ in range(self._job.settings.workers):
                await self._start()
            helpers = [self._group.create_task(self._keep_replacing()), self._group.create_task(self._announce())]
            await self._stop.wait()
            for helper in helpers:
                helper.cancel()
            await self._end()
        if self._failure is not None:
            raise self._failure

    async def _announce(self) -> None:
        while sum([await worker.ready for worker in list(self._workers)]) < self._job.settings.workers:
            await asyncio.sleep(0.05)
        self._ready()

    async def _start(self, *, stand_in: bool = False) -> _Worker:
        worker = await _Worker.start(self._job, self._listener)
        worker.leaving = stand_in
        self._workers.append(worker)
        self._group.create_task(self._look_after(worker))
        if self._stop.is_set():
            worker.terminate()
        return worker

    async def _look_after(self, worker: _Worker) -> None:
        await worker.watch(self._job.settings.worker_seconds)
        self._workers.remove(worker)
        if worker.leaving or self._stop.is_set():
            return
        if worker.ready.result():
            self._failed_starts = 0
            why = worker.failure or worker.process.returncode
            _log.warning("worker %d has ended (%s); another one takes its place", worker.process.pid, why)
        else:
            await self._judge_failed_start(worker)
        if not self._stop.is_set():
            await self._start()

    async def _judge_failed_start(self, worker: _Worker) -> None:
        self._failed_starts += 1
        code = worker.process.returncode
        why = worker.failure or f"it ended with {code}"
        if any(other.ready.done() and other.ready.result() for other in self._workers):
            _log.error("worker %d could not start, others go on serving: %s", worker.process.pid, why)
        elif code == MISCONFIGURED:
            self._give_up(ConfigurationError(why))
        elif self._failed_starts >= _STARTS:
            self._give_up(ApplicationFailed(f"workers could not start {_STARTS} times in a row: {why}"))
        else:
            _log.warning("worker %d could not start: %s", worker.process.pid, why)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), min(0.5 * self._failed_starts, _RETRY_SECONDS))

    def _give_up(self, failure: Exception) -> None:
        self._failure = self._failure or failure
        self._stop.set()

    async def _keep_replacing(self) -> None:
        while await self._replace.wait():
            self._replace.clear()
            _log.warning("replacing %d workers one after another", len(self._workers))
            for old in list(self._workers):
                new = await self._start(stand_in=True)
                if not await new.ready:
                    _log.error("the new worker did not start, the old ones stay: %s", new.failure or "the log says why")
                    break
                new.leaving = False
                old.terminate()
                await self._gone(old)

    async def _gone(self, worker: _Worker) -> None:
        try:
            async with asyncio.timeout(worker.drain_seconds + _ENDING_SECONDS):
                await worker.process.wait()
        except TimeoutError:
            worker.kill()

    async def _end(self) -> None:
        self._listener.close()
        for worker in self._workers:
            worker.terminate()
        await asyncio.gather(*[self._gone(worker) for worker in list(self._workers)])
