"""``distill report`` as users run it: what it prints, and one line for each mistake."""

import subprocess
import sys

import pytest

from distill import exit_codes
from distill.cli import main
from distill.training import event_files
from tests.distill.experiments.report import synthetic


@pytest.fixture
def runs(tmp_path):
    for method, right in (("label", False), ("paired", True)):
        for seed in range(2):
            correct = [right, True, False, True, seed == 1]
            synthetic.write_run(
                tmp_path / "runs" / f"{method}{seed}", correct, configuration={"FORM": method, "RANDOM_SEED": seed}
            )
    return tmp_path / "runs"


def test_it_prints_what_it_found_and_the_files(runs, tmp_path, capsys):
    output = tmp_path / "page.html"
    assert main.main(["report", str(runs), f"--output={output}", "--price_per_chip_hour=2"]) == exit_codes.DONE
    shown = capsys.readouterr()
    assert shown.out.startswith("Of 2 settings, validation selected paired: test accuracy 70.0 %")
    assert shown.out.splitlines()[-1] == "  ".join(str(output.with_suffix(s)) for s in (".html", ".md", ".csv", ".png"))
    assert "warning: 2 of 2 settings have fewer than 3 seeds" in shown.err


@pytest.mark.parametrize(
    "spoil, words, message",
    [
        (lambda d: (d / "label0" / "record.json").unlink(), [], "label0 has result.json and no record.json"),
        (
            lambda d: [path.unlink() for path in d.glob("*/result.json")],
            [],
            "4 stopped; label0 and 3 more were stopped: run",
        ),
        (
            lambda d: other_data(d / "paired0"),
            [],
            "were scored on 2 different sets of test rows, which are never pooled",
        ),
        (lambda d: None, ["--compare=x"], "or AXIS=LEVEL with one of the axes FORM; got 'x'"),
        (lambda d: None, ["--compare=FORM=x"], "--compare=FORM=x: FORM has the levels "),
        (lambda d: None, ["--metric=f1"], "has no test metric 'f1'; it has accuracy"),
        (
            lambda d: None,
            ["--price_per_chip_hour=-1"],
            "--price_per_chip_hour must be a number of at least 0; got -1.0",
        ),
        (lambda d: None, ["--output=x.pdf"], "--output is the HTML page, so it must end in .html; got x.pdf"),
    ],
)
def test_a_mistake_is_one_line(runs, tmp_path, capsys, spoil, words, message):
    spoil(runs)
    output = tmp_path / "page.html"
    assert main.main(["report", str(runs), f"--output={output}", *words]) == exit_codes.MISTAKE
    lines = capsys.readouterr().err.splitlines()
    while lines[0].startswith(("distill report: reading ", "distill report: 4 runs; ")):
        lines.pop(0)
    assert len(lines) == 1 and lines[0].startswith("distill report: ") and message in lines[0]
    assert not output.exists()


def test_it_reads_records_and_curves_without_tensorflow_and_jax(runs, tmp_path):
    writer = event_files.ScalarWriter(runs / "paired0" / "logs", 0)
    for step in range(1, 4):
        writer.write(step, {"train/loss": 1 / step})
    writer.close()
    code = (
        "import sys; from distill.cli import main; code = main.main(sys.argv[1:]); "
        "print(code, [name for name in ('jax', 'tensorflow') if name in sys.modules])"
    )
    words = ["report", str(runs), f"--output={tmp_path / 'page.html'}"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
    assert done.stderr.splitlines()[0] == f"distill report: reading {runs}"
    assert "Training curves" in (tmp_path / "page.html").read_text()


def test_a_misspelt_folder_gets_the_nearest_name(runs, capsys):
    assert main.main(["report", f"{runs}s"]) == exit_codes.MISTAKE
    assert f"did you mean '{runs}'?" in capsys.readouterr().err


def other_data(directory):
    path = directory / "record.json"
    path.write_text(path.read_text().replace('"test0"', '"other"'))
