"""The stored results: medians by work, a work at a time, and which ratio to a peer has become worse."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from bench.load import Figures, Latency
from bench.measure import Run
from bench.results import Results, Stamp, condense, regressions

from bench import readme

ROOT = Path(__file__).resolve().parents[2]
TODAY = Stamp("abc1234", "2026-11-29")
NOTHING = Latency(0, 0.0, 0.0, 0.0, 0.0)
ZERO = dict.fromkeys((field.name for field in msgspec.structs.fields(Figures)), 0)


def run(work: str, subject: str, variable: float, completed: int) -> Run:
    figures = Figures(**{**ZERO, "seconds": 1.0, "completed": completed, "latency": NOTHING, "last": NOTHING})
    return Run(work, subject, variable, figures)


def echoes(ours: int, uvicorn: int) -> list[Run]:
    return [run("echo", "ours-bare", 64, ours), run("echo", "uvicorn-bare", 64, uvicorn)]


def test_keeps_the_median_of_each_figure() -> None:
    (found,) = condense([run("echo", "ours-bare", 64, completed) for completed in (10, 1_000, 30)])
    assert found.figures.completed == 30


def test_renews_the_works_that_were_measured_and_keeps_the_others(tmp_path: Path) -> None:
    before = Results().renewed([*echoes(10, 10), run("few", "ours-endpoint-memory", 2, 5)], [], TODAY)
    later = Stamp("def5678", "2026-11-30")
    after = before.renewed(echoes(20, 10), ["nchan is not installed"], later)
    assert after.works == {"echo": later, "few": TODAY}
    assert [(one.work, one.figures.completed) for one in after.runs] == [("few", 5), ("echo", 20), ("echo", 10)]
    after.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == after


@pytest.mark.parametrize(("ours", "uvicorn", "is_worse"), [(100, 50, False), (93, 50, False), (180, 100, True)])
def test_names_a_ratio_that_is_worse_by_more_than_a_tenth(ours: int, uvicorn: int, is_worse: bool) -> None:
    stored = Results().renewed(echoes(101, 50), [], TODAY)
    found = regressions(stored, echoes(ours, uvicorn))
    assert found == (["echo, window 64, ours-bare: 1.80 × uvicorn-bare, stored 2.02 ×"] if is_worse else [])


def fanouts(ours: int, **peers: int) -> list[Run]:
    figures = {"ours-served-memory": ours, **{name.replace("_", "-"): rate for name, rate in peers.items()}}
    runs = [run("fanout", subject, 1, 1) for subject in figures]
    return [
        msgspec.structs.replace(one, figures=msgspec.structs.replace(one.figures, deliveries=figures[one.subject]))
        for one in runs
    ]


@pytest.mark.parametrize(
    ("ours", "peers", "is_worse"),
    [
        (1_000, {"nats_server": 200, "node_ws": 50, "tutorial": 10}, False),  # one peer had a good run
        (1_000, {"nats_server": 200, "node_ws": 50}, False),
        (1_000, {"nats_server": 200}, True),  # nobody says that it was the peer
        (500, {"nats_server": 100, "node_ws": 50, "tutorial": 10}, True),
        (500, {"nats_server": 100, "node_ws": 25, "tutorial": 5}, False),  # a slower minute, but for one
        (500, {"nats_server": 50, "node_ws": 25, "tutorial": 5}, False),  # for all
    ],
)
def test_a_peer_that_varies_by_itself_makes_no_ratio_worse(ours: int, peers: dict[str, int], is_worse: bool) -> None:
    stored = Results().renewed(fanouts(1_000, nats_server=100, node_ws=50, tutorial=10), [], TODAY)
    found = regressions(stored, fanouts(ours, **peers))
    assert bool(found) == is_worse, found


def test_a_ratio_that_one_repetition_has_is_not_worse() -> None:
    stored = Results().renewed(fanouts(1_000, nats_server=100), [], TODAY)
    good, bad = fanouts(1_000, nats_server=99), fanouts(1_000, nats_server=150)
    assert regressions(stored, [*bad, *good, *bad]) == []
    assert len(regressions(stored, [*bad, *bad, *bad])) == 1


def test_says_nothing_of_what_was_not_measured() -> None:
    stored = Results().renewed(echoes(100, 50), [], TODAY)
    assert regressions(stored, [run("few", "ours-endpoint-memory", 2, 5)]) == []


STORED = sorted((ROOT / "docs" / "bench").glob("results.json"))


def test_readme_says_what_the_stored_results_say() -> None:
    for path in STORED:
        assert readme.written(ROOT / "README.md") == readme.paragraphs(Results.read(path))


def test_every_stored_work_has_its_commit_and_its_day() -> None:
    for results in map(Results.read, STORED):
        assert {run.work for run in results.runs} <= results.works.keys()
        assert all(len(stamp.commit) >= 7 and len(stamp.date) == 10 for stamp in results.works.values())


def test_writes_readme_between_its_marks_alone(tmp_path: Path) -> None:
    page, results = tmp_path / "README.md", Results().renewed(echoes(30, 20), [], TODAY)
    page.write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nbehind\n")
    readme.write(page, results)
    assert page.read_text() == f"before\n{readme.BEGIN}\n{readme.paragraphs(results)}\n{readme.END}\nbehind\n"
    assert readme.written(page) == readme.paragraphs(results)
    assert "1.5 times as fast as under uvicorn with 64 messages" in " ".join(readme.written(page).split())
