"""Checks the types of the package as a user's type checker sees them: `pyright --verifytypes`, with no symbol unknown.

A type that is inferred and not written down counts as known here; how many there are is printed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

COMMAND = ("pyright", "--verifytypes", "tidewire", "--ignoreexternal", "--outputjson")


def main() -> int:
    """Return the exit code."""
    # pyright looks for the package in the environment of the `python` that it finds first.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    answer = subprocess.run(COMMAND, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    report: dict[str, Any] = json.loads(answer.stdout).get("typeCompleteness", {})
    if not report.get("pyTypedPath"):
        print(f"pyright did not find the package as installed: {answer.stdout[:300]}{answer.stderr[:300]}")
        return 1
    unknown = [symbol for symbol in report["symbols"] if not (symbol["isTypeKnown"] or symbol["isTypeAmbiguous"])]
    for symbol in unknown:
        reasons = "; ".join(" ".join(found["message"].split()) for found in symbol["diagnostics"])
        print(f"{symbol['name']}: {reasons}")
    counts = report["exportedSymbolCounts"]
    print(
        f"public types: {counts['withKnownType']} written, {counts['withAmbiguousType']} inferred, "
        f"{counts['withUnknownType']} unknown"
    )
    return 1 if unknown or counts["withUnknownType"] else 0


if __name__ == "__main__":
    sys.exit(main())
