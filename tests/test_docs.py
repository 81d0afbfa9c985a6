"""What the documentation names exists: linked files and headings, gin files and macros, subcommands and flags."""

import argparse
import importlib
import importlib.metadata
import inspect
import json
import pathlib
import re
import shlex

import pytest

import tests_support
from distill.cli import launch, main
from distill.cli import parser as command_line

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Words in capitals that are no macros: placeholders, signals, and environment variables of other programs.
NOT_MACROS = frozenset({
    "ALHPA", "AXIS", "CHOICE", "COLUMNS", "DEFAULT_RULES", "DIR", "FILE", "HF_TOKEN", "JAX_PLATFORMS", "KNOWN",
    "MODULE", "NAME", "OPENAI_API_KEY", "PYTHONPATH", "SIGINT", "SIGTERM", "STEP", "VALUE",
})  # fmt: skip
# Macros of T5X's own gin files.
NOT_MACROS |= {"CHECKPOINT_PATH", "EVALUATOR_NUM_EXAMPLES", "EVAL_OUTPUT_DIR", "INFER_OUTPUT_DIR", "NPROC", "BATCH"}
NOT_MACROS |= {
    "JAX_CPU_ENABLE_ASYNC_DISPATCH",
    "DISTILL_COMPILATION_CACHE",
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_ENABLE_COMPILATION_CACHE",
    "JAX_OPTIMIZATION_LEVEL",
    "LIBTPU_INIT_ARGS",
    "XLA_FLAGS",
}
NOT_MACROS |= {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_URI"}
NOT_MACROS |= {"WANDB_MODE", "WANDB_NAME", "WANDB_PROJECT", "WANDB_RUN_GROUP"}
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def prose(text):
    """The page without its code blocks."""
    return FENCE.sub("", text)


def anchors(path):
    """The fragments that the page's headings answer to, as they are made for Markdown on the web."""
    headings = re.findall(r"^#+ (.*)$", prose(path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def commands(text, program):
    """The argument lists of ``program`` in a page's shell blocks and inline code; the latter may be abbreviated by "…"."""
    shell = "\n".join(block for language, block in FENCE.findall(text) if language in ("bash", "sh", "shell"))
    lines = shell.replace("\\\n", " ").split("\n")
    lines += re.findall(r"`([^`\n]+)`", prose(text))
    words = program.split()
    for line in lines:
        try:
            parts = shlex.split(line, comments=True)
        except ValueError:
            continue
        for start in range(len(parts)):
            if parts[start : start + len(words)] == words:
                rest = parts[start + len(words) :]
                ends = [at for at, part in enumerate(rest) if part in ("|", "&&", ";", "||", ">", "&")]
                yield line, rest[: ends[0]] if ends else rest
                break


def subcommands(parser):
    """Name → parser of a parser's subcommands."""
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(actions[0].choices) if actions else {}


def macros_of(text):
    """Macros that a gin text sets or refers to."""
    code = re.sub(r"#.*", "", text)
    return set(re.findall(r"^([A-Z][A-Z0-9_]*)\s*=", code, re.MULTILINE)) | set(re.findall(r"%([A-Z][A-Z0-9_]*)", code))


@pytest.fixture(scope="module")
def macros():
    found = set()
    for path in (ROOT / "gin").rglob("*.gin"):
        found |= macros_of(path.read_text(encoding="utf-8"))
    assert {"TRAIN_STEPS", "DATA_DIR", "BATCH_SIZE"} <= found
    return found


def takes(name, argument):
    """Whether a configurable as the documents spell it, ``evaluate.DecodeConfig``, has the argument."""
    name = name.split("/")[-1]
    module, _, function = name.rpartition(".")
    folders = sorted(path.name for path in (ROOT / "distill").iterdir() if path.is_dir() and path.name != "gin")
    for package in ("", "distill.", *(f"distill.{folder}." for folder in folders)):
        try:
            owner = importlib.import_module(package + module)
        except ImportError:
            continue
        if hasattr(owner, function):
            return argument in inspect.signature(getattr(owner, function)).parameters
    # T5X's own arguments cannot be looked up where T5X is absent; the gin files that come along set or name them.
    return any(name in path.read_text(encoding="utf-8") for path in (ROOT / "gin" / "t5x").rglob("*.gin"))


@pages
def test_links(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if re.match(r"^[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name} links to {target}, which is not there"
        if fragment and path.suffix == ".md":
            assert fragment in anchors(path), f"{page.name} links to {target}; {path.name} has {sorted(anchors(path))}"


@pages
def test_gin_files(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"\bgin/[\w./-]+\.(?:gin|json|yaml)\b", text):
        assert (ROOT / name).exists() or name == "gin/runs/destill.gin", f"{page.name} names {name}, which is not there"


@pages
def test_macros(page, macros):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"--gin\.([A-Za-z_][\w./]*)(?==)", text):
        if name.isupper() or "." not in name:
            assert name in macros | NOT_MACROS, f"{page.name} sets the macro {name}, which no gin file uses"
        else:
            configurable, _, argument = name.rpartition(".")
            assert takes(configurable, argument), f"{page.name} sets {name}; {configurable} has no such argument"
    for code in re.findall(r"`([^`\n]+)`", prose(text)):
        if match := re.fullmatch(r"([A-Z][A-Z0-9_]{2,})(?:\s?=.*)?", code):
            assert match[1] in macros | NOT_MACROS, f"{page.name} names {match[1]}, which no gin file uses"


@pages
def test_gin_and_sweeps_in_code_blocks(page, macros):
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "json" and '"axes"' in block:
            sweep = json.loads(block)
            named = {
                *sweep.get("bindings", {}),
                *(axis for axis, values in sweep["axes"].items() if isinstance(values, list)),
            }
            for values in sweep["axes"].values():
                for choice in values.values() if isinstance(values, dict) else ():
                    named |= set(choice.get("bindings", {})) if isinstance(choice, dict) else set()
            for name in named:
                assert name in macros or takes(*name.rpartition(".")[::2]), f"{page.name}: a sweep sets {name}"
        if "dynamic_registration" in block:
            assert macros_of(block) <= macros, f"{page.name}: {macros_of(block) - macros}"


def check_command(page, line, arguments, parser=None):
    """Follows subcommands, then looks up every flag; of ``launch``, also the command after ``--``."""
    if parser is None and arguments[:1] == ["launch"]:
        split = arguments.index("--") if "--" in arguments else len(arguments)
        check_command(page, line, arguments[1:split], launch.launch_parser())
        arguments = arguments[split + 1 :]
    if parser is None:
        parser = command_line.parser(arguments[0] if arguments else "")
    while subcommands(parser) and arguments and not arguments[0].startswith("-"):
        known = subcommands(parser)
        name = arguments[0].rstrip("…")
        if not re.fullmatch(r"[a-z_]+", name):
            return  # "distill COMMAND", "distill train|eval": no command to run
        assert name in known, f"{page.name}: `{line}`: there is no {name!r}; there are {sorted(known)}"
        parser, arguments = known[name], arguments[1:]
    flags = {flag for action in parser._actions for flag in action.option_strings}
    for argument in arguments:
        flag = argument.partition("=")[0]
        if re.fullmatch(r"--?[a-z]\w*", flag):
            assert flag in flags, f"{page.name}: `{line}`: there is no {flag}; there are {sorted(flags)}"


@pages
def test_commands_and_flags(page):
    text = page.read_text(encoding="utf-8")
    for program in ("distill", "python -m distill"):
        for line, arguments in commands(text, program):
            check_command(page, line, arguments)


@pages
def test_says_nothing_of_the_machine_it_was_written_on(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(?:work|tmp|home|root)/", text), page.name


SOURCES = [
    *(
        path
        for folder in ("distill", "tasks", "tools", "benchmarks", "fuzz")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ),
    *(path for folder in ("gin", "distill") for path in sorted((ROOT / folder).rglob("*.gin"))),
    *(ROOT / name for name in ("Makefile", "requirements-t5x.txt")),
]
NAMED_FILE = re.compile(
    r"(?<![\w./{}<>*-])(?:gin|docs|tools|tasks|tests|benchmarks)/[\w/.-]*\.(?:gin|json|md|py|png|txt|yaml)\b(?![{*])"
)


def absent_files(text):
    """Files of this repository that a source text names, in messages, help or comments, and that do not exist."""
    return sorted({name for name in NAMED_FILE.findall(text) if not (ROOT / name).exists()})


def test_files_named_in_the_sources_exist():
    named = 0
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        named += len(NAMED_FILE.findall(text))
        absent = absent_files(text)
        assert not absent, f"{path.relative_to(ROOT)} names {', '.join(absent)}, which is not there"
    assert named > 50
    wrong = 'ValueError("see docs/absent.md, gin/runs/absent.gin:3 or docs/README.md; my/docs/x.md, gin/{name}.gin")'
    assert absent_files(wrong) == ["docs/absent.md", "gin/runs/absent.gin"]


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "README.md" or f"({path.name})" in index, path.name


def test_every_macro_of_training_is_documented():
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for name in macros_of((ROOT / "gin" / "runs" / "train.gin").read_text(encoding="utf-8")):
        assert f"`{name}`" in text, name


def test_the_checks_notice(tmp_path, macros):
    page = tmp_path / "page.md"
    page.write_text(
        "[x](absent.md) [y](#nothing)\n\n```bash\ndistill train --gin_fil=a --gin.ALHPA=1\ndistill teach\n```\n`TRAIN_STEP`"
    )
    with pytest.raises(AssertionError, match=r"absent\.md"):
        test_links(page)
    with pytest.raises(AssertionError, match="--gin_fil"):
        test_commands_and_flags(page)
    with pytest.raises(AssertionError, match="TRAIN_STEP,"):
        test_macros(page, macros)
    page.write_text("## A heading (of λ)\n[x](#a-heading-of-λ)\n`distill teach`")
    test_links(page)
    with pytest.raises(AssertionError, match="teach"):
        test_commands_and_flags(page)
    for command, flag in (("--hots=a -- train", "--hots"), ("--host=a -- train --gin_fil=a", "--gin_fil")):
        page.write_text(f"`distill launch hosts {command}`")
        with pytest.raises(AssertionError, match=flag):
            test_commands_and_flags(page)
    assert takes("evaluate.DecodeConfig", "method")
    assert not takes("evaluate.DecodeConfig", "methd")


def own_rows_sweep():
    """The sweep file for a user's own rows."""
    text = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    text = text[text.index("## Rates for your own rows") :]
    return next(block for language, block in FENCE.findall(text) if language == "yaml")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_the_sweep_file_for_own_rows_dry_runs(tmp_path, monkeypatch, capfd):
    """As a user copies it, in a folder with nothing but the rows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rates.yaml").write_text(own_rows_sweep(), encoding="utf-8")
    tests_support.write_rows(tmp_path / "train.jsonl", 25)
    tests_support.write_rows(tmp_path / "test.jsonl", 10, start=25)
    assert main.main(["sweep", "rates.yaml", "--dry_run"]) == 0
    shown = capfd.readouterr()
    assert "45 runs to do" in shown.out and "WARNING" not in shown.out, shown.out
    text = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    assert "1.45e+15 floating-point operations" in shown.out and "lists the 45 runs, of 1.45e+15 operations" in text
    assert "distill report sweeps/rates --output=rates.html" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rates.yaml", "test.jsonl", "train.jsonl"]


def test_the_results_in_the_readme_are_those_of_the_report():
    report = (ROOT / "docs" / "demo_rates.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^- \*\*.*", report[report.index("## What the data show") :], re.MULTILINE)
    assert len(shown) >= 3 and "\n".join(shown[:3]) in readme


def test_every_guide_is_listed():
    """In the table of the documentation's first page, and in the built pages, which CI may lack the packages to build."""
    guides = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert guides <= set((ROOT / "docs" / "index.rst").read_text(encoding="utf-8").split())
    table = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert guides - {"README"} <= set(re.findall(r"^\| \[([\w-]+)\.md\]\(\1\.md\) \|", table, re.MULTILINE))


def test_extras_in_messages_exist_and_are_named_as_an_installed_package_knows_them():
    """``pip install '.[serve]'`` of a message would need a clone in the present folder; a wheel's user has none."""
    extras = set(importlib.metadata.metadata("distill-step-by-step").get_all("Provides-Extra"))
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "distill").rglob("*.py")]
    pages = [
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/README.md", "docs/checkpoints.md")
    ]
    named = [name for text in (*sources, *pages) for name in re.findall(r"pip install '([^'\n]+\[[^'\n]+\])'", text)]
    named = [name for name in named if re.match(r"[.\w-]+", name)[0] in (".", "distill-step-by-step")]
    assert len(named) >= 6
    for name in named:
        extra = re.fullmatch(r"distill-step-by-step\[(\w+|NAME|\{name\})\]", name)
        assert extra and (extra[1] in extras or extra[1] in ("NAME", "{name}")), name
