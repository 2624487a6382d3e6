"""Files as people have them: names of every script, links, forms, and results that are not plain files."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from contract.serving import Server
from pipelines.support import finished, opened, program
from pipelines.test_server import API, serving, start, wait
from tidewire import ConfigurationError
from tidewire.cli.pipeline import _files
from tidewire.pipelines import BadStart, Input, Pipeline, RunStatus, Step
from tidewire.pipelines.folders import list_files

READS = b"@1\nACGT\n+\nIIII\n"
pytestmark = pytest.mark.xdist_group("files")

COPY = Pipeline(
    "copy", (Step("copy", ("cp", "{reads}", "{results}/copy.fastq")),), inputs=(Input("reads", accept=(".fastq",)),)
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("files")
    (folder / "inputs").mkdir()
    with serving(folder, environment={"TIDEWIRE_PIPELINES__INPUTS": "inputs"}).running() as running:
        yield running


@pytest.mark.parametrize(
    "name", ["样本.fastq", "Ü.fq", "пример.fastq", "ตัวอย่าง.fastq", "★.fastq", "👩🏽‍🔬 S.fq", "S1.fastq "]
)
def test_an_upload_may_have_a_name_of_any_script(server: Server, name: str) -> None:
    """A sample named in Chinese, or with an umlaut, was refused after the whole transfer (jonas-fuchs/updog#64)."""
    sent = server.http.post(
        f"{API}/uploads", params={"name": name, "pipeline": "readqc", "input": "reads"}, content=READS
    )
    assert sent.status_code == 201, sent.text
    kept = sent.json()["name"]
    assert kept.endswith((".fastq", ".fq"))
    assert kept == name.strip().replace(" ", "_")
    run = start(server, "readqc", inputs={"reads": {"upload": sent.json()["upload"]}})
    done = wait(server, run["id"], "finished", "failed")
    assert (done["status"], done["inputs"][0]["name"]) == ("finished", kept), done


@pytest.mark.parametrize("sent", ["Übung.fastq".encode(), b"%C3%9Cbung.fastq", b"%DCbung.fastq"])
def test_a_name_is_that_whose_bytes_were_sent(server: Server, sent: bytes) -> None:
    """A letter in Latin-1 was lost, and bytes as they are were an "invalid HTTP request" without a reason."""
    head = f" HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\nContent-Length: {len(READS)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(f"POST {API}/uploads?name=".encode() + sent + head.encode() + READS)
        with connection.makefile("rb") as file:
            answer = file.read()
    if not sent.isascii():
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"must be percent-encoded" in answer
        return
    assert answer.startswith(b"HTTP/1.1 201"), answer
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["name"] == "Übung.fastq"


def test_a_wrong_upload_is_refused_before_it_is_sent(server: Server) -> None:
    """A wrong ending, a form of `curl -F`, or a missing name was found after the transfer, or by the run."""
    url, reads = f"{API}/uploads", {"pipeline": "readqc", "input": "reads"}
    wrong = server.http.post(url, params={"name": "S1.bam", **reads}, content=READS)
    assert (wrong.status_code, "does not end with" in wrong.json()["detail"]) == (400, True)
    form = server.http.post(url, params={"name": "S1.fastq"}, files={"file": ("S1.fastq", READS)})
    assert (form.status_code, "--data-binary" in form.json()["detail"]) == (415, True)
    nameless = server.http.post(url, content=READS)
    assert (nameless.status_code, "?name=" in nameless.json()["detail"]) == (400, True)


def test_two_uploads_with_the_same_content_are_two(server: Server) -> None:
    """The first run took the file of both, and the second sample was 404."""
    uploads = [
        server.http.post(f"{API}/uploads", params={"name": f"S{number}.fastq"}, content=READS).json()["upload"]
        for number in (1, 2)
    ]
    for number, upload in enumerate(uploads, 1):
        run = start(server, "readqc", f"S{number}", inputs={"reads": {"upload": upload}})
        assert run["inputs"][0]["name"] == f"S{number}.fastq"
        assert wait(server, run["id"], "finished", "failed")["status"] == "finished"


def test_inputs_that_are_links_are_listed_and_used_under_their_own_name(server: Server, tmp_path: Path) -> None:
    """Galaxy, DVC and git-annex keep their data elsewhere and give people links to it."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "dataset_12.dat").write_bytes(READS)
    inputs = server.folder / "inputs"
    (inputs / "S1.fastq").symlink_to(tmp_path / "store" / "dataset_12.dat")
    (inputs / "lost.fastq").symlink_to(".git/annex/objects/x")
    (inputs / "again").symlink_to(inputs)
    (inputs / "self.fastq").symlink_to("self.fastq")
    (inputs / "U\u0308.fastq").write_bytes(READS)
    (inputs / "deep").symlink_to(tmp_path / "store")
    listed = {file["name"]: file.get("problem", "") for file in server.http.get(f"{API}/inputs").json()["inputs"]}
    assert listed.keys() == {"S1.fastq", "lost.fastq", "self.fastq", "deep/dataset_12.dat", "U\u0308.fastq"}
    assert (listed["S1.fastq"], "git annex get" in listed["lost.fastq"]) == ("", True)
    assert "leads to itself" in listed["self.fastq"]
    composed = start(server, "readqc", "S1", inputs={"reads": {"name": "\u00dc.fastq"}})  # a Mac writes it as two
    assert wait(server, composed["id"], "finished", "failed")["status"] == "finished"
    for given in ({"inputs": {"reads": {"name": "S1.fastq"}}}, {"new": True}):
        run = start(server, "readqc", "S1", **given)
        assert run["inputs"][0]["name"] == "S1.fastq"
        assert wait(server, run["id"], "finished", "failed")["status"] == "finished"
    lost = server.http.post(f"{API}/runs", json={"pipeline": "readqc", "sample": "lost"})
    assert (lost.status_code, "git annex get" in lost.json()["detail"]) == (400, True)


def test_a_pipe_is_no_input(tmp_path: Path) -> None:
    """A link to a pipe kept the start of a run waiting for ever; a folder was "no file" on the command line."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "S1.fastq").symlink_to("pipe")

    async def scenario() -> None:
        async with opened(tmp_path / "here", COPY) as pipelines, asyncio.timeout(20):
            with pytest.raises(BadStart, match="is no file, but a pipe"):
                await pipelines.start("copy", "S1", inputs={"reads": tmp_path / "S1.fastq"})

    assert "a pipe" in list_files(tmp_path)[0].problem
    asyncio.run(scenario())
    for given, problem in (("pipe", "a pipe"), (".", "is a folder"), ("lost", "there is no file")):
        with pytest.raises(ConfigurationError, match=problem):
            _files([f"reads={tmp_path / given}"])


def test_an_input_with_a_latin_1_name_is_an_input(tmp_path: Path) -> None:
    """A name that is not UTF-8 was a traceback."""
    inputs = os.fsencode(tmp_path) + b"/inputs"
    os.mkdir(inputs)
    with open(inputs + b"/\xdcbung.fastq", "wb") as file:
        file.write(READS)

    async def scenario() -> None:
        folder = Path(os.fsdecode(inputs))
        async with opened(tmp_path, COPY, inputs=folder) as pipelines:
            assert [file.name for file in list_files(folder)] == ["Übung.fastq"]
            path = Path(os.fsdecode(inputs + b"/\xdcbung.fastq"))
            run = (await pipelines.start("copy", "S1", inputs={"reads": path})).run
            assert run.inputs[0].name == "Übung.fastq"
            assert (await pipelines.wait(run.id)).status is RunStatus.FINISHED
            assert (await pipelines.result(run.id, "copy.fastq")).read_bytes() == READS
            with pytest.raises(BadStart, match="does not end with"):
                await pipelines.start("copy", "S1", inputs={"reads": Path(os.fsdecode(b"/\xdc.bam"))})

    asyncio.run(scenario())


def test_results_that_are_links_or_have_odd_names_are_listed(tmp_path: Path) -> None:
    """A link was left out without a word, a name with a line feed was listed and 404, a Latin-1 name missing."""
    text = """
import os, sys
results, work = map(os.fsencode, sys.argv[1:])
os.mkdir(work + b"/made")
open(work + b"/made/a.txt", "w").write("a")
os.symlink(work + b"/made/a.txt", results + b"/link.txt")
os.symlink(work + b"/made", results + b"/folder")
os.symlink("/etc/passwd", results + b"/outside.txt")
os.symlink("/etc", results + b"/etc")
for name in (b"/line\\nfeed.txt", b"/\\xdc.txt"):
    open(results + name, "w").write("odd")
"""

    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            run = await finished(pipelines, Step("one", program(text, "{results}", "{workdir}")))
            listed = {file.name: file for file in await pipelines.results(run.id)}
            assert listed.keys() == {
                *("link.txt", "folder/a.txt", "outside.txt", "etc", "line\nfeed.txt", "Ü.txt"),
            }  # fmt: skip
            assert listed["link.txt"].size == 1
            assert "outside of the run's folder" in listed["outside.txt"].problem
            for name, content in (
                ("link.txt", "a"),
                ("folder/a.txt", "a"),
                ("line\nfeed.txt", "odd"),
                ("Ü.txt", "odd"),
            ):
                assert (await pipelines.result(run.id, name)).read_text() == content

    asyncio.run(scenario())


_WRITE = "import sys; [open(sys.argv[1] + '/' + name, 'w').write(name) for name in sys.argv[2:]]"


def test_a_result_with_any_name_can_be_downloaded(tmp_path: Path) -> None:
    """A result whose name has a line feed was listed, and its download was 404."""
    (tmp_path / "definitions").mkdir()
    names = ["a\nb.txt", "c\n", "d?#%.txt", " e"]
    command = json.dumps([sys.executable, "-c", _WRITE, "{results}", *names])
    (tmp_path / "definitions" / "odd.toml").write_text(f'[[steps]]\nname = "a"\nrun = {command}\n')
    environment = {"TIDEWIRE_PIPELINES__FOLDER": "definitions"}
    with Server(tmp_path, broker="sqlite:///hub.db", environment=environment).running() as server:
        run = start(server, "odd")["id"]
        assert wait(server, run, "finished", "failed")["status"] == "finished"
        listed = [file["name"] for file in server.http.get(f"{API}/runs/{run}/results").json()["results"]]
        assert sorted(listed) == sorted(names)
        for name in names:
            answer = server.http.get(f"{API}/runs/{run}/results/{quote(name, safe='')}")
            assert (answer.status_code, answer.text) == (200, name)
