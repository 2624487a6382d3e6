"""The examples, typed end to end: their documents are valid, and a page breaks when a field of its model is renamed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tidewire
from asyncapi.test_document import judge
from helpers.node_packages import node_modules

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
UI = Path(tidewire.__file__).parent / "server" / "ui"
#: The examples whose pages are checked, and a field in each that the page reads.
TYPED = {"chat": "text", "notifications": "title"}


def types(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tidewire", "types", "app:app", *arguments]
    environment = os.environ | {"BROKER": "memory://"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
def test_documents_of_examples_pass_the_official_parser(tmp_path: Path) -> None:
    names = sorted(path.parent.name for path in EXAMPLES.glob("*/app.py") if "Hub(" in path.read_text())
    assert len(names) > 4
    documents = []
    for name in names:
        written = types(EXAMPLES / name, "--json")
        assert written.returncode == 0, (name, written.stderr)
        documents.append(json.loads(written.stdout))
    judge(tmp_path, *documents)


@pytest.mark.parametrize("name", TYPED)
def test_a_page_is_checked_by_the_types_of_its_application(name: str, tmp_path: Path) -> None:
    page = EXAMPLES / name / "page"
    made = types(EXAMPLES / name, str(tmp_path / "channels.ts"))
    assert made.returncode == 0, made.stdout + made.stderr
    written = (tmp_path / "channels.ts").read_text()
    shutil.copy(UI / "tidewire.d.ts", tmp_path)
    (tmp_path / "page.js").write_text(
        (page / "page.js").read_text().replace('"/connection/tidewire.js"', '"./tidewire.js"')
    )
    options = {"allowJs": True, "checkJs": True, "noEmit": True, "module": "esnext", "moduleResolution": "bundler"}
    options |= {"target": "es2023", "lib": ["es2023", "dom", "dom.iterable"], "types": [], "strict": False}
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "include": ["*.ts", "*.js"]}))
    compiler = node_modules(HERE) / "node_modules/typescript/bin/tsc"

    def compile_with(text: str) -> str:
        (tmp_path / "channels.ts").write_text(text)
        command = ["node", str(compiler), "-p", str(tmp_path), "--pretty", "false"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout

    assert compile_with(written) == ""
    renamed = compile_with(written.replace(f"  {TYPED[name]}: ", f"  {TYPED[name]}s: "))
    assert f"'{TYPED[name]}'" in renamed
    assert "page.js(" in renamed
