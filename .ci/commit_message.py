"""Checks the message of a commit: a subject of at most 72 characters in the imperative, and a body that says why.

`python .ci/commit_message.py FILE` prints each mistake; the exit code is 1 if there is one.
"""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ("mistakes",)

SUBJECT = 72
LINE = 80
#: Subjects that git writes, and those of commits that are squashed later.
EXEMPT = ("Merge ", "Revert ", "fixup! ", "squash! ")


def mistakes(message: str) -> list[str]:
    """Return what is wrong with a commit message, each with what to write instead."""
    lines = [line for line in message.splitlines() if not line.startswith("#")]
    subject, rest = (lines or [""])[0], lines[1:]
    if subject.startswith(EXEMPT):
        return []
    found: list[str] = []
    if not subject.strip():
        found.append("the subject is empty; write one sentence in the imperative")
    if len(subject) > SUBJECT:
        found.append(f"the subject has {len(subject)} characters; write at most {SUBJECT}, and the rest into the body")
    if subject.endswith("."):
        found.append("the subject ends with a full stop; leave it out")
    if rest and rest[0].strip():
        found.append("the second line is not blank; leave it blank between subject and body")
    body = [line for line in rest if line.strip()]
    if not body:
        found.append("there is no body; say in a sentence or two why the change is made")
    found += [
        f"a line has {len(line)} characters; wrap it at {LINE}: {line[:40]}…" for line in body if len(line) > LINE
    ]
    return found


def main(path: str) -> int:
    """Print the mistakes of the message in a file, and return the exit code."""
    found = mistakes(Path(path).read_text(encoding="utf-8"))
    for mistake in found:
        print(mistake)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
