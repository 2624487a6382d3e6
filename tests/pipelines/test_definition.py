"""A definition cannot be wrong: every mistake is named, with what to write instead."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tidewire import ConfigurationError
from tidewire.pipelines import Input, Job, Pipeline, Progress, builtin, load, load_folder, pipeline
from tidewire.pipelines.errors import BadStart
from tidewire.pipelines.naming import check_sample, expand, expand_argument, file_name, placeholders

TRUE = ("true",)


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_a_file_becomes_a_pipeline(tmp_path: Path) -> None:
    found = load(
        written(
            tmp_path,
            """
            title = "Mine"
            [inputs.reads]
            accept = [".fastq"]
            [[steps]]
            name = "one"
            run = ["echo", "{reads}", "{folder}"]
            progress = { pattern = '(\\d+)%' }
            [[steps]]
            name = "two"
            python = "os.path:join"
            retries = 2
            """,
        )
    )
    assert (found.name, found.title, found.folder) == ("mine", "Mine", str(tmp_path))
    assert found.inputs == (Input("reads", accept=(".fastq",)),)
    assert [step.needs for step in found.steps] == [(), ("one",)]
    assert found.steps[0].progress == Progress(pattern=r"(\d+)%")
    assert load_folder(tmp_path) == [found]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("steps = [", "is not TOML"),
        ("", "missing required field `steps`"),
        ("steps = []", "it has 0 steps"),
        ('show = ["{run}.html"]\nsteps = [{ name = "a", run = ["x"] }]', "show has '{run}.html'"),
        ('steps = [{ name = "a", rn = ["x"] }]', "did you mean run"),
        ('steps = [{ name = "a", run = "x" }]', "expected `array`"),
        ('steps = [{ name = "../a", run = ["x"] }]', "cannot have this name"),
        ('steps = [{ name = "a" }]', "nothing to do"),
        ('steps = [{ name = "a", run = ["x"], python = "a:b" }]', "run and python"),
        ('steps = [{ name = "a", run = ["{sample}"] }]', "without placeholders"),
        ('steps = [{ name = "a", run = ["x", "{sampel}"] }]', "is no placeholder"),
        ('steps = [{ name = "a", run = ["x", "{"] }]', "write '{{'"),
        ('steps = [{ name = "a", run = ["x"] }, { name = "a", run = ["x"] }]', "two steps are named 'a'"),
        ('steps = [{ name = "a", needs = ["b"], run = ["x"] }]', "which is no step"),
        ('steps = [{name="a", needs=["b"], run=["x"]}, {name="b", needs=["a"], run=["x"]}]', "in a circle"),
        ('steps = [{ name = "a", run = ["x"], weight = 0 }]', "weight is 0"),
        ('steps = [{ name = "a", run = ["x"], retries = -1 }]', "retries is -1"),
        ('steps = [{ name = "a", run = ["x"], progress = { pattern = "(" } }]', "no regular expression"),
        ('steps = [{ name = "a", run = ["x"], progress = { pattern = "x" } }]', "has 0 groups"),
        ('steps = [{ name = "a", run = ["x"], progress = { lines = 1, bytes = 1 } }]', "write one of them"),
        ('steps = [{ name = "a", run = ["x"], progress = { input = "x" } }]', "which is no input"),
        ('steps = [{ name = "a", python = "os" }]', "at a module's top"),
        ('steps = [{ name = "a", function = "os:x" }]', 'as python = "module:function"'),
        ('steps = [{ name = "a", run = ["x"], env = { "A-B" = "x" } }]', "is no name of a variable"),
        ('steps = [{ name = "a", run = ["x"] }]\n[inputs.sample]', "cannot have this name"),
        ('steps = [{ name = "a", run = ["x"] }]\n[inputs.x]\nfind = ["../{sample}"]', "no folder"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(written(tmp_path, text))
    assert problem in str(raised.value)
    assert str(raised.value).startswith(str(tmp_path))


def test_ours_are_valid_and_find_their_functions() -> None:
    found = {known.name: known for known in builtin()}
    assert {"demo", "readqc"} <= set(found)
    for known in found.values():
        for step in known.steps:
            module, _, name = step.python.partition(":")
            assert callable(getattr(importlib.import_module(module), name))


def test_a_decorated_function_is_a_pipeline_of_one_step() -> None:
    @pipeline("assembly", title="Assembly")
    async def assemble(job: Job) -> None:
        """Do nothing."""

    assert isinstance(assemble, Pipeline)
    assert [step.name for step in assemble.steps] == ["assemble"]
    assert assemble.steps[0].is_local


def test_a_plain_function_must_be_found_by_another_process() -> None:
    with pytest.raises(ConfigurationError, match="at a module's top"):

        @pipeline("assembly")
        def assemble(job: Job) -> None:
            """Do nothing."""


@pytest.mark.parametrize("name", ["S1", "a", "9.fq_x-y", "A" * 64])
def test_names_of_samples(name: str) -> None:
    assert check_sample(name) == name


@pytest.mark.parametrize(
    "name", ["", "-x", "--help", ".", "..", "../x", "a/b", "a b", "a;rm", "$(x)", "a\n", "a\0", "é", "A" * 65, "*", 7]
)
def test_what_is_no_sample(name: object) -> None:
    with pytest.raises(BadStart, match="cannot be used"):
        check_sample(name)


def test_placeholders_are_never_split() -> None:
    values = {"sample": "a b; rm -rf $HOME", "x": "{sample}"}
    assert expand("-o={sample}", values) == "-o=a b; rm -rf $HOME"
    assert expand("{x}", values) == "{sample}"
    assert expand("{{sample}}", values) == "{sample}"
    assert placeholders("{sample}/{{x}}") == {"sample"}


def test_a_value_makes_no_option() -> None:
    with pytest.raises(BadStart, match="is an option"):
        expand_argument("{sample}", {"sample": "--output=/etc/passwd"})
    assert expand_argument("-o{sample}", {"sample": "x"}) == "-ox"
    with pytest.raises(BadStart, match="zero byte"):
        expand_argument("{sample}", {"sample": "a\0b"})


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("S1.fastq", "S1.fastq"),
        ("../../etc/passwd", "passwd"),
        ("C:\\x\\S1.fq", "S1.fq"),
        ("-rf", "rf"),
        (".ssh", "upload.ssh"),
        ("样本.fastq", "样本.fastq"),
        ("U\u0308.fq", "Ü.fq"),
        ("★★.fastq", "★★.fastq"),
        ("\udcdc.fastq", "Ü.fastq"),
        ("样" * 100 + ".fastq.gz", "样" * 63 + ".fastq.gz"),
        ("a b;c", "a_b_c"),
        ("///", "upload"),
        ("x" * 300 + ".gz", "x" * 197 + ".gz"),
    ],
)
def test_names_of_files_that_were_sent(given: str, kept: str) -> None:
    assert file_name(given, "upload") == kept
