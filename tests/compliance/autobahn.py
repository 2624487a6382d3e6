"""Runs the Autobahn test suite against both links: `python -m tests.compliance.autobahn [CASES…]`.

The suite is the field's conformance test of RFC 6455. It needs Python 2.7 (the variable AUTOBAHN_PYTHON, or `python2.7`
on the path) and is fetched by its pip into a cache folder; nothing of it is kept in this tree.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.links.wire import serving

#: Sections of the suite: all of RFC 6455 but limits and performance (9).
CASES = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*")
#: A choice of the compression cases (12, 13): each exchanges 1,000 messages, and the suite is slow at it.
DEFLATE_CASES = ("12.1.1", "12.1.4", "12.2.2", "12.3.3", "13.1.1", "13.2.2", "13.3.3", "13.7.1")
#: Failures that are choices: the close of a client in the middle of a fragmented message is a protocol error
#: (RFC 6455 section 5.4), says `websockets`; the suite wants its code echoed.
KNOWN = frozenset({"7.1.5"})

_SUITE = "autobahntestsuite==25.10.1"
_NEEDS = (
    "autobahn==0.10.9",
    "cryptography==3.3.2",
    "incremental==16.10.1",
    "jinja2==2.11.3",
    "klein==17.10.0",
    "markupsafe==1.1.1",
    "pyOpenSSL==19.1.0",
    "service_identity==18.1.0",
    "six==1.16.0",
    "Twisted==19.10.0",
    "txaio==2.1.0",
    "unittest2==1.1.0",
    "Werkzeug==1.0.1",
    "zope.interface==4.6.0",
)
#: The namespace package `zope` is found only in a site folder.
_RUN = (
    "import site, sys; site.addsitedir({0!r}); sys.path.insert(0, {0!r}); "
    "from autobahntestsuite.wstest import run; run()"
)


class Missing(Exception):
    """The suite cannot be had here; the text says why."""


def python() -> str:
    """Return a Python 2.7; raises Missing."""
    for candidate in (os.environ.get("AUTOBAHN_PYTHON"), shutil.which("python2.7")):
        if candidate and subprocess.run([candidate, "-c", "import ssl, zlib"], capture_output=True).returncode == 0:
            return candidate
    raise Missing("the Autobahn suite needs Python 2.7: set AUTOBAHN_PYTHON to its path")


def suite(interpreter: str) -> Path:
    """Return the folder into which the suite is installed, once; raises Missing."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tidewire", _SUITE)
    if not (cache / "complete").exists():
        install = [interpreter, "-m", "pip", "install", "-q", "--target", str(cache), "--upgrade"]
        for packages in (_NEEDS, ("--no-deps", _SUITE)):
            done = subprocess.run([*install, *packages], capture_output=True, text=True)
            if done.returncode != 0:
                raise Missing(f"the Autobahn suite cannot be installed: {done.stderr[-500:]}")
        (cache / "complete").touch()
    return cache


def run(servers: dict[str, str], cases: tuple[str, ...], report: Path) -> dict[str, dict[str, str]]:
    """Run cases against servers (name → URL); returns, by name, each case's outcome."""
    interpreter = python()
    program = _RUN.format(str(suite(interpreter)))
    spec = {
        "outdir": str(report),
        "servers": [{"agent": name, "url": url} for name, url in servers.items()],
        "cases": list(cases),
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "spec.json")
        file.write_text(json.dumps(spec))
        command = [interpreter, "-c", program, "-m", "fuzzingclient", "-s", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    index = report / "index.json"
    if not index.exists():
        raise Missing(f"the Autobahn suite does not run: {(done.stdout + done.stderr)[-500:]}")
    return {
        name: {case: outcome["behavior"] for case, outcome in outcomes.items()}
        for name, outcomes in json.loads(index.read_text()).items()
    }


def failures(outcomes: dict[str, str]) -> list[str]:
    """Return the cases that failed and are not known to."""
    # UNIMPLEMENTED: an offer of compression was declined (a window smaller than what is compressed once for all).
    passed = {"OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED"}
    return sorted(case for case, outcome in outcomes.items() if outcome not in passed and case not in KNOWN)


def check(cases: tuple[str, ...], report: Path, *, deflate: bool = False) -> dict[str, dict[str, str]]:
    """Run cases against the raw link, an ASGI endpoint on it, and the ASGI link on uvicorn's own class."""
    limits = {"message_size": 16_777_216, "rate": 1e6, "burst": 1_000_000}
    with serving(limits=limits, deflate=deflate) as ours, serving(limits=limits, ws="websockets-sansio") as theirs:
        servers = {"uvicorn link": ours.url("/link"), "ASGI endpoint": ours.url("/echo")}
        if not deflate:
            servers["ASGI link"] = theirs.url("/link")
        return run(servers, cases, report)


def main() -> int:
    """Print what failed, where the report is; returns the exit code."""
    cases = tuple(sys.argv[1:]) or CASES + DEFLATE_CASES
    report = Path(tempfile.mkdtemp(prefix="autobahn-"))
    try:
        outcomes = check(cases, report, deflate=any(case.startswith(("12", "13")) for case in cases))
    except Missing as error:
        print(error, file=sys.stderr)
        return 2
    failed = {name: failures(of) for name, of in outcomes.items()}
    for name, of in outcomes.items():
        print(f"{name}: {len(of)} cases, {', '.join(failed[name]) or 'none'} failed (known: {', '.join(KNOWN)})")
    print(f"report: {report}/index.html")
    return 1 if any(failed.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
