"""The page of pipelines in front of a real server: real files, real programs, a server that is killed."""

from __future__ import annotations

import itertools
import json
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from browser.looks import SMALL, check
from browser.people import DESK, PHONE, Person
from browser.serving import Server
from contract.serving import until

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

MakePerson = Callable[..., Person]

READS = "".join(f"@r{number}\n{'ACGTTGCA' * 9}\n+\n{'IIIIHHGF' * 9}\n" for number in range(2_000))

#: Prints, then waits until the test lets it go on: with "go", or with "fail".
WAIT = """
import pathlib, sys, time
word = pathlib.Path(sys.argv[1])
for number in range(400):
    print(f"line {number}", "needle" if number in (7, 390) else "")
print("done 40%", flush=True)
end = time.monotonic() + 100
while not (word.exists() and word.read_text()) and time.monotonic() < end:
    time.sleep(0.05)
print("last words")
sys.exit(0 if word.exists() and word.read_text() == "go" else 3)
"""

DEFINITION = f"""
title = "Two steps"
description = "For the tests."

[[steps]]
name = "first"
title = "Begin"
run = ["sh", "-c", "echo begun; echo out > $0", "{{results}}/first.txt"]

[[steps]]
name = "second"
title = "Linger"
run = [{json.dumps(sys.executable)}, "{{folder}}/wait.py", "{{folder}}/{{sample}}.word"]
progress = {{ pattern = 'done (\\d+)%' }}
weight = 3
"""

MISSING = """
title = "Not here"

[[steps]]
name = "only"
run = ["surely-not-installed"]
package = "surely"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of definitions."""
    made = tmp_path_factory.mktemp("definitions")
    for name, text in (("two.toml", DEFINITION), ("missing.toml", MISSING), ("wait.py", WAIT)):
        (made / name).write_text(text)
    return made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Server]:
    """One server for all tests of this page; each uses samples of its own."""
    home = tmp_path_factory.mktemp("pipelines")
    (home / "tidewire.toml").write_text(f"[pipelines]\nfolder = {json.dumps(str(folder))}\nconcurrency = 2\n")
    server = Server(home)
    server.start()
    yield server
    server.stop()


def opened(person: Person) -> Page:
    """Open the form, whatever the width of the screen."""
    person.page.goto(f"{person.url}/pipelines#/new")
    expect(person.page.locator("#pipeline option").first).to_be_attached()
    return person.page


def start_two(page: Page, sample: str) -> None:
    """Start the pipeline of two steps, and wait until the second one waits."""
    page.locator("#pipeline").select_option("two")
    page.get_by_label("Sample").fill(sample)
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(sample)
    expect(step(page, "Linger")).to_contain_text("40%", timeout=30_000)


def step(page: Page, title: str) -> Locator:
    return page.locator("#steps .step").filter(has_text=title)


def is_now(page: Page, state: str) -> None:
    expect(page.locator("#run-state")).to_have_text(state, timeout=45_000)


def test_a_dropped_file_becomes_a_report(people: MakePerson, server: Server) -> None:
    page = opened(people(server))
    page.locator("#pipeline").select_option("readqc")
    drop = """([node, text]) => {
      const files = new DataTransfer();
      files.items.add(new File([text], "Tuesday 1.fastq"));
      node.dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));
    }"""
    page.evaluate(drop, [page.locator(".drop").element_handle(), READS])
    expect(page.get_by_label("Sample")).to_have_value("Tuesday-1")
    page.get_by_role("button", name="Start", exact=True).click()
    is_now(page, "Finished")
    expect(page.get_by_role("progressbar", name="Progress of the run")).to_have_attribute("aria-valuenow", "100")
    with page.expect_download() as download:
        page.locator("#results a[download='readqc.html']").click()
    assert "2,000 reads" in Path(download.value.path()).read_text()
    with page.context.expect_page() as shown:
        page.get_by_role("link", name="Open readqc.html").click()
    report = shown.value
    expect(report.get_by_role("heading", level=1)).to_have_text("Tuesday-1")
    assert report.locator("figure svg").count() >= 4
    box = report.locator("figure").first.bounding_box()
    assert box, "its own styles are in force"
    assert box["width"] > 300
    report.close()
    expect(page.locator("#log-text")).to_contain_text("2,000 reads, 144,000 bases")
    expect(page.locator("#said")).to_contain_text("Tuesday-1: Finished")


def test_a_broken_file_says_what_is_wrong_with_which_line(people: MakePerson, server: Server, tmp_path: Path) -> None:
    page = opened(people(server))
    page.locator("#pipeline").select_option("readqc")
    (tmp_path / "notes.txt").write_text("x")
    page.locator("#file-reads").set_input_files(tmp_path / "notes.txt")
    expect(page.locator("#file-reads-problem")).to_contain_text("notes.txt is no such file")
    (tmp_path / "broken.fastq").write_text(READS + "@x\nACGT\n+\nIII\n")
    page.locator("#file-reads").set_input_files(tmp_path / "broken.fastq")
    page.get_by_role("button", name="Start", exact=True).click()
    is_now(page, "Failed")
    problem = "broken.fastq: line 8004 has 3 quality characters for the 4 bases of line 8002"
    expect(page.locator("#failure")).to_contain_text(problem)
    expect(page.locator("#failure pre")).to_contain_text(problem)
    expect(page.locator(".run-link[aria-current]")).to_contain_text("Failed")
    check(page)


def test_a_program_that_is_missing_is_named_before_the_start(people: MakePerson, server: Server) -> None:
    page = opened(people(server))
    page.locator("#pipeline").select_option("missing")
    expect(page.locator("#missing")).to_contain_text("surely-not-installed")
    expect(page.locator("#missing")).to_contain_text("apt-get install surely")
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_disabled()
    page.locator("#pipeline").select_option("two")
    page.get_by_label("Sample").fill("../etc")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator("#sample-problem")).to_contain_text("cannot be used")


def test_cancelled_failed_resumed_and_seen_by_two(people: MakePerson, server: Server, folder: Path) -> None:
    page = opened(people(server))
    start_two(page, "cut")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel it").click()
    is_now(page, "Cancelled")
    expect(step(page, "Linger")).to_contain_text("Stopped")
    other = people(server).page
    other.goto(page.url)
    is_now(other, "Cancelled")
    (folder / "cut.word").write_text("fail")
    other.get_by_role("button", name="Resume").click()
    for each in (page, other):
        expect(each.locator("#failure pre")).to_contain_text("last words", timeout=30_000)
    (folder / "cut.word").write_text("go")
    page.get_by_role("button", name="Resume").click()
    for each in (page, other):
        is_now(each, "Finished")
        expect(each.locator("#failure")).to_be_hidden()
    expect(page.get_by_role("link", name="first.txt")).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    page.locator("#confirm-yes").click()
    expect(page.locator(".run-link", has_text="cut")).to_have_count(0)


def test_the_log_is_searched_and_followed(people: MakePerson, server: Server, folder: Path) -> None:
    page = opened(people(server))
    start_two(page, "log")
    text, follow = page.locator("#log-text"), page.get_by_role("button", name="Follow")
    expect(text).to_contain_text("done 40%")
    page.get_by_role("searchbox", name="Search the log").fill("NEEDLE")
    expect(page.locator("#matches")).to_have_text("2 matches")
    page.get_by_role("searchbox", name="Search the log").press("Enter")
    expect(page.locator("#matches")).to_have_text("1 of 2")
    expect(follow).to_have_attribute("aria-pressed", "false")
    top = "(node) => node.scrollTop"
    before = page.locator("#log-box").evaluate(top)
    (folder / "log.word").write_text("go")
    expect(text).to_contain_text("last words", timeout=30_000)
    assert page.locator("#log-box").evaluate(top) == before, "who reads is not moved"
    follow.click()
    assert page.locator("#log-box").evaluate(top) > before
    page.get_by_label("Step whose log is shown").select_option("first")
    expect(text).to_contain_text("begun")
    expect(text).not_to_contain_text("last words")


def test_a_killed_server_interrupts_and_the_page_goes_on(people: MakePerson, server: Server, folder: Path) -> None:
    page = opened(people(server))
    start_two(page, "crash")
    server.kill()
    expect(page.locator("#bar")).to_be_visible()
    page.get_by_role("link", name="New run").click()
    expect(page.locator("#bar")).to_be_hidden()
    page.go_back()
    expect(page.locator("#bar")).to_be_visible()
    server.start()
    is_now(page, "Interrupted")
    expect(page.locator("#bar")).to_be_hidden()
    expect(step(page, "Begin")).to_contain_text("Done")
    (folder / "crash.word").write_text("go")
    page.get_by_role("button", name="Resume").click()
    is_now(page, "Finished")
    expect(page.locator("#log-text")).to_contain_text("last words")  # the log is shown a moment after the state
    shown = page.locator("#log-text").inner_text()
    assert len(re.findall(r"^line 7 ", shown, re.MULTILINE)) == len(re.findall(r"\[tidewire\] attempt", shown))


def test_the_list_follows_without_asking(people: MakePerson, server: Server, folder: Path) -> None:
    """From the first run to its removal, over a crash of the server; nobody looks at the run itself."""
    person = people(server)
    page, api = opened(person), f"{server.url}/api/pipelines/runs"
    entry = page.locator(".run-link", has_text="listed")
    body = {"pipeline": "two", "sample": "listed"}
    run = page.request.post(api, data=body).json()["run"]["id"]
    bar = page.get_by_role("progressbar", name="Progress of listed")
    expect(bar).to_have_attribute("aria-valuenow", "55", timeout=30_000)
    server.kill()
    server.start()
    page.evaluate("() => dispatchEvent(new Event('online'))")  # a wait ends when the network is back
    expect(entry).to_contain_text("Interrupted", timeout=30_000)
    (folder / "listed.word").write_text("go")
    page.route("**/api/pipelines/runs?*", lambda route: route.abort())
    page.request.post(f"{api}/{run}/resume")
    expect(entry).to_contain_text("Finished", timeout=45_000)
    expect(entry.locator(".run-about")).to_contain_text(" s")
    assert page.request.delete(f"{api}/{run}").ok
    expect(entry).to_have_count(0)


def test_a_lost_connection_is_caught_up(people: MakePerson, server: Server, folder: Path) -> None:
    person = people(server)
    page = opened(person)
    start_two(page, "tunnel")
    person.context.set_offline(True)
    page.evaluate("() => dispatchEvent(new Event('offline'))")
    expect(page.locator("#bar")).to_be_visible(timeout=20_000)
    (folder / "tunnel.word").write_text("go")
    run = page.url.rpartition("/")[2]
    asked = people(server).context.request
    address = f"{server.url}/api/pipelines/runs/{run}"
    until(
        lambda: asked.get(address).json().get("run", {}).get("status") == "finished",
        20,
        what="the rest is said while the page is away",
    )
    person.context.set_offline(False)
    is_now(page, "Finished")
    expect(page.locator("#log-text")).to_contain_text("last words")
    lines = page.locator("#log-text").inner_text().split("\n")
    numbers = [int(line.split()[1]) for line in lines if line.startswith("line ")]
    assert numbers == list(range(400))


def test_the_same_sample_again_is_joined(people: MakePerson, server: Server, folder: Path) -> None:
    page = opened(people(server))
    start_two(page, "twice")
    first = page.url
    page.get_by_role("link", name="New run").click()
    start_two(page, "twice")
    expect(page).to_have_url(first)
    expect(page.locator("#run-notice")).to_contain_text("under way already")
    (folder / "twice.word").write_text("go")
    is_now(page, "Finished")


def test_where_people_log_in_each_sees_their_own(people: MakePerson, own_server: Callable[..., Server]) -> None:
    server = own_server("--host", "0.0.0.0")
    stranger = people(server)
    stranger.page.goto(f"{server.url}/pipelines")
    expect(stranger.page.get_by_role("heading", level=1)).to_have_text("Sign in to see your runs")
    expect(stranger.page.get_by_role("link", name="Sign in")).to_be_visible()
    ann, bob = (people(server).sign_up() for _ in range(2))
    ann.page.get_by_role("link", name="Pipelines").click()
    expect(ann.page.locator("#pipeline option").first).to_be_attached()
    ann.page.locator("#pipeline").select_option("demo")
    ann.page.get_by_label("Sample").fill("mine")
    ann.page.get_by_role("button", name="Start", exact=True).click()
    is_now(ann.page, "Finished")
    with ann.page.expect_download() as download:
        ann.page.locator("#results a").first.click()
    assert Path(download.value.path()).stat().st_size > 0
    assert not [address for address in ann.addresses if "token" in address], "no token is in an address"
    (cookie,) = ann.page.context.cookies(f"{server.url}/api/pipelines")
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("token", True, "Strict")
    opened(bob)
    expect(bob.page.locator("#no-runs")).to_be_visible()
    bob.page.goto(ann.page.url)
    expect(bob.page.get_by_role("heading", level=1)).to_have_text("No such run")
    expect(bob.page.get_by_role("main").get_by_role("alert").filter(has_text="run")).to_be_visible()
    bob.page.get_by_role("main").get_by_role("link", name="New run").last.click()
    expect(bob.page.get_by_role("heading", level=1)).to_have_text("New run")
    ann.page.goto(f"{server.url}/")
    ann.page.get_by_role("button", name="Sign out").click()
    expect(ann.page.get_by_role("heading", name="Sign in")).to_be_visible()
    end = time.monotonic() + 15
    while ann.page.context.cookies(f"{server.url}/api/pipelines"):
        assert time.monotonic() < end, "the cookie is taken away"
        ann.page.wait_for_timeout(20)


@pytest.mark.parametrize(
    ("viewport", "scheme"),
    [(DESK, "light"), (PHONE, "dark"), ({"width": 360, "height": 740}, "light")],
    ids=["desk", "phone", "small"],
)
def test_names_contrast_and_sizes(
    people: MakePerson, server: Server, folder: Path, viewport: dict[str, int], scheme: str
) -> None:
    is_phone = viewport["width"] < 800
    person = people(server, viewport=viewport, color_scheme=scheme, has_touch=is_phone, is_mobile=is_phone)
    page = opened(person)
    word = folder / f"look-{scheme}-{viewport['width']}.word"

    def looks_right() -> None:
        check(page)
        expect(page.get_by_role("main")).to_be_visible()
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
        if is_phone:
            assert page.evaluate(SMALL) == []

    looks_right()
    start_two(page, word.stem)
    looks_right()
    word.write_text("go")
    is_now(page, "Finished")
    expect(page.get_by_role("link", name="first.txt")).to_be_visible()
    looks_right()
    if is_phone:
        page.get_by_role("link", name="All runs").click()
        expect(page.get_by_role("navigation", name="Runs")).to_be_visible()
        looks_right()


def test_everything_by_keyboard(people: MakePerson, server: Server, folder: Path) -> None:
    page = opened(people(server))
    page.locator("#pipeline").select_option("two")
    page.get_by_label("Sample").focus()
    page.keyboard.type("keys")
    page.keyboard.press("Enter")
    expect(page.locator("#run-title")).to_have_text("keys")
    expect(step(page, "Linger")).to_contain_text("40%", timeout=30_000)
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id"))
    assert {"new-link", "cancel", "log-step", "search", "stay", "log-box"} <= seen
    (folder / "keys.word").write_text("go")
    is_now(page, "Finished")


@pytest.fixture(scope="module")
def plain(chromium: Browser, server: Server) -> Iterator[Page]:
    """A page on which modules are tried without a DOM of theirs."""
    page = chromium.new_page()
    page.goto(f"{server.url}/ui/mark.svg")
    yield page
    page.close()


def test_a_run_that_is_resumed_begins_again_at_what_was_not_done(plain: Page) -> None:
    body = """async () => {
      const { WatchedRun } = await import("/ui/js/pipelines/watched.js");
      const watched = new WatchedRun({ eventsAddress: () => "ws://127.0.0.1:1/" });
      const told = (message) => watched.connection.emit("message", message);
      const step = { message: "", attempt: 1, error: "", lines: [], started: 5, ended: 9 };
      const names = ["done", "failed", "stopped"];
      const steps = names.map((name) => ({ ...step, name, status: name, progress: name === "done" ? 100 : 40 }));
      Object.assign(steps[1], { error: "exit code 3", lines: ["last words"] });
      told({ type: "state", seq: 4, run: { id: "r1", status: "failed", progress: 60, steps } });
      told({ type: "run", seq: 5, time: 20, status: "queued", progress: 60, position: 1 });
      return watched.run.steps.map(({ status, progress, error, lines, started, ended }) =>
        [status, progress, error, lines.length, started, ended]);
    }"""
    done, *others = plain.evaluate(body)
    assert done == ["done", 100, "", 0, 5, 9]
    assert others == [["waiting", 0, "", 0, None, None]] * 2


def test_pieces_of_a_log_in_any_order_make_a_whole(plain: Page) -> None:
    """Against a file that grows: pieces that are late, twice, or never come."""
    body = """async ([whole, pieces]) => {
      const { StepLog } = await import("/ui/js/pipelines/steplog.js");
      const bytes = new TextEncoder().encode(whole);
      let size = 40;
      const fetched = async ({ from, limit }) => {
        await new Promise((resolve) => setTimeout(resolve));
        const begin = from < 0 ? Math.max(0, size + from) : from;
        const end = Math.min(size, begin + limit);
        return { bytes: bytes.slice(begin, end), next: end, size };
      };
      const log = new StepLog(fetched);
      log.load();
      for (const [from, to] of pieces) {
        size = Math.max(size, to);
        log.pushed({ from, to, text: new TextDecoder().decode(bytes.slice(from, to)) });
        if (from % 3 === 0) await new Promise((resolve) => setTimeout(resolve));
      }
      while (log.next < size) await new Promise((resolve) => setTimeout(resolve));
      const holes = log.blocks.filter((block, place) => place && block.from !== log.blocks[place - 1].to);
      return [log.blocks.map(({ text }) => text).join(""), log.start, holes.length];
    }"""
    dice = random.Random(6)
    for _ in range(20):
        whole = "".join(f"line {number}\n" for number in range(200))
        ends = sorted({40, len(whole), *(dice.randrange(40, len(whole)) for _ in range(30))})
        pieces = [[begin, end] for begin, end in itertools.pairwise(ends) if dice.random() < 0.7]
        pieces = [piece for piece in pieces for _ in range(dice.choice((1, 1, 2)))] + [[ends[-2], ends[-1]]]
        assert plain.evaluate(body, [whole, pieces]) == [whole, 0, 0]


def test_durations_sizes_and_what_is_left(plain: Page) -> None:
    body = """async () => {
      const { duration, roughly, size } = await import("/ui/js/pipelines/words.js");
      const { runLeft } = await import("/ui/js/pipelines/estimate.js");
      const step = (name, needs, status, progress, expected, started = null) =>
        ({ name, needs, status, progress, expected, started });
      const run = (...steps) => ({ status: "running", progress: 50, started: 0, steps });
      return [
        [0, 59.6, 200, 3599, 7500, 100000].map(duration), [59, 239, 7500].map(roughly),
        [0, 999, 1603019, 5e9].map(size),
        // The longer of two chains: 40 of 60 s are left of b, then c takes 30 s.
        runLeft(run(step("c", ["b"], "waiting", 0, 30), step("a", [], "running", 0, 50, 80),
          step("b", [], "running", 0, 60, 80)), 100),
        // Nobody knows c: from the whole run, half of which took 100 s.
        runLeft(run(step("c", [], "waiting", 0, null)), 100),
        runLeft({ ...run(), progress: 1, steps: [step("c", [], "waiting", 0, null)] }, 100),
      ];
    }"""
    times, rough, sizes, chain, whole, unknown = plain.evaluate(body)
    assert times == ["0 s", "1 min", "3 min 20 s", "60 min", "2 h 5 min", "1 d 3 h"]
    assert rough == ["under 1 min", "3 min", "2 h 5 min"]
    assert sizes == ["0 bytes", "999 bytes", "1.6 MB", "5.0 GB"]
    assert (chain, whole, unknown) == (70, 100, None)


def test_a_server_without_pipelines_says_so(
    people: MakePerson, own_server: Callable[..., Server], tmp_path: Path
) -> None:
    (tmp_path / "tidewire.toml").write_text("[pipelines]\nenabled = false\n")
    server = own_server()
    page = people(server).page
    page.goto(f"{server.url}/pipelines")
    expect(page.get_by_role("heading", level=1)).to_have_text("No pipelines here")


def test_the_admin_page_shows_runs_as_they_go_and_cancels_them(people: MakePerson, server: Server) -> None:
    page = people(server).page
    opened_page = opened(people(server))
    start_two(opened_page, "seen-by-root")
    page.goto(f"{server.url}/admin#/runs")
    page.get_by_label("Search by pipeline").fill("Seen-by")
    row = page.locator("#runs-table tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("running")
    expect(row).to_contain_text("Linger")
    expect(row).to_contain_text(
        "55 %"
    )  # the first step, and two fifths of the second, which weighs three times as much
    check(page)
    page.get_by_role("button", name="Cancel two of seen-by-root").click()
    page.get_by_role("button", name="Do it").click()
    expect(row).to_contain_text("cancelled", timeout=20_000)
    expect(page.get_by_role("button", name="Cancel two of seen-by-root")).to_have_count(0)
    is_now(opened_page, "Cancelled")
    page.get_by_label("Search by pipeline").fill("nobody's")
    expect(row).to_have_text("No pipeline has run here.")
