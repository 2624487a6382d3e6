"""Jobs with live progress that survive everything, on `tidewire.pipelines`. `make example NAME=jobs`."""

import asyncio
import json
import os
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import RedirectResponse

from tidewire import Hub
from tidewire.pipelines import Input, Job, Pipeline, Pipelines, Step, page, router

SLOWLY = float(os.environ.get("SLOWLY", "0.3"))
WORD = re.compile(r"[^\W\d_]+")
REPORT = """<!doctype html><meta charset="utf-8"><title>{sample}</title>
<style>body{{font:16px system-ui;max-width:40rem;margin:2rem auto}}td{{padding:4px 16px}}</style>
<h1>{sample}</h1><p>{total} words, {different} different ones.</p><table>{rows}</table>"""

hub = Hub(os.environ.get("BROKER", "sqlite:///jobs.db"))


async def count(job: Job) -> None:
    """Count the words of a text, part by part: a part that is counted is not counted again after a crash."""
    text = await asyncio.to_thread(job.inputs["text"].read_text, errors="replace")
    found: Counter[str] = Counter()
    parts = 20
    size = len(text) // parts + 1
    for number in range(parts):
        found.update(word.lower() for word in WORD.findall(text[number * size : (number + 1) * size]))
        await job.progress((number + 1) / parts, f"{sum(found.values())} words")
        await asyncio.sleep(SLOWLY)  # so that there is something to watch
    (job.workdir / "words.json").write_text(json.dumps(found.most_common()))


async def report(job: Job) -> None:
    """Write the report that the page opens."""
    words = json.loads((job.workdir / "words.json").read_text())
    rows = "".join(f"<tr><td>{word}</td><td>{times}</td></tr>" for word, times in words[:50])
    html = REPORT.format(sample=job.sample, total=sum(n for _, n in words), different=len(words), rows=rows)
    (job.results / "report.html").write_text(html)
    (job.results / "words.csv").write_text("".join(f"{word},{times}\n" for word, times in words))


WORDS = Pipeline(
    "words",
    (Step("count", function=count, title="Count the words"), Step("report", function=report, title="Write the report")),
    title="Word counts",
    description="The words of a text, and how often each comes.",
    inputs=(Input("text", title="Text", accept=(".txt", ".md")),),
    show=("report.html",),
)
pipelines = Pipelines(hub, Path(os.environ.get("RUNS", "runs")), [WORDS])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with hub, pipelines:
        yield


app = FastAPI(title="Jobs", lifespan=lifespan)
app.include_router(router(pipelines), prefix="/api/pipelines")
app.include_router(page(), prefix="/jobs")


@app.get("/", include_in_schema=False)
async def home() -> RedirectResponse:
    return RedirectResponse("/jobs")
