"""Sweep files on the command line: the shipped ones are listed and printed, and the help names every key."""

import os
from pathlib import Path

import pytest

from distill import exit_codes
from distill.cli import main, runs, sweep_files
from distill.experiments.sweep import leases, reading, schema

SHIPPED = Path(__file__).parents[3] / "gin" / "sweeps"


def test_the_list_names_every_shipped_file(capsys):
    assert main.main(["sweep", "--list"]) == exit_codes.DONE
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-2]] == sorted(path.stem for path in SHIPPED.glob("*.yaml"))
    assert "demo_lambda            The weight λ of the rationale task" in lines
    assert all(len(line.split()) > 3 for line in lines[:-2])
    assert "--print=NAME > my.yaml" in lines[-1]


@pytest.mark.parametrize("name", ["demo_rates", "demo_rates.yaml", "gin/sweeps/demo_rates.yaml"])
def test_a_printed_file_is_the_shipped_one_and_can_be_read(name, tmp_path, capsys):
    assert main.main(["sweep", f"--print={name}"]) == exit_codes.DONE
    text = capsys.readouterr().out
    assert text == (SHIPPED / "demo_rates.yaml").read_text("utf-8")
    (tmp_path / "my.yaml").write_text(text)
    assert reading.read(tmp_path / "my.yaml").runs()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--print=demo_rats"], "no yaml file 'gin/sweeps/demo_rats.yaml'; did you mean 'gin/sweeps/demo_rates.yaml'"),
        (["--list", "x"], "--list takes no other file or flag; got x"),
        (["--list", "--print=demo"], "--list takes no other file or flag; got --list and --print"),
        ([], "no sweep was given; expected a file or directory (--list lists the shipped files)"),
        (["a", "b"], "distill sweep takes one file or directory; got a b"),
        (["status"], "no sweep was given"),
        (
            ["status", "nodir"],
            "nodir does not exist; expected a sweep file (.yaml, .yml, .json) or the directory of a sweep, which `distill "
            "sweep FILE` makes\n",
        ),
        (["demo_rats"], "demo_rats does not exist"),
        (["demo_rats"], "did you mean 'gin/sweeps/demo_rates.yaml'?"),
        (["gin/sweeps/demo_rats"], "did you mean 'gin/sweeps/demo_rates.yaml'?"),
        (["status", "rates"], "or the directory of a sweep, which `distill sweep FILE` makes\n"),
        (["nodir/rates"], "or the directory of a sweep, which `distill sweep FILE` makes\n"),
    ],
)
def test_mistakes(given, message, capsys):
    assert main.main(["sweep", *given]) == exit_codes.MISTAKE
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sttaus", "grids"], "takes one file or directory; got sttaus grids; did you mean 'status'?"),
        (["s.yml"], "s.yml does not exist; did you mean 's.yaml'?"),
        (["rows.jsonl"], "rows.jsonl:2 is not YAML: "),
        (["rows.jsonl"], "expected a sweep file (.yaml, .yml, .json)"),
        (["s.yaml"], "nothing uses LAMDA (set in axis 'LAMDA' of s.yaml:3)"),
        (["good.yaml", "--run=LAMBDA-7"], "has no run 'LAMBDA-7'; `distill sweep status` lists its runs"),
        (["good.yaml", "--run=LAMBDA-7", "--dry_run"], "did you mean 'LAMBDA-2'?"),
    ],
)
def test_mistakes_are_named_with_their_place_before_anything_is_loaded(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "load_tensorflow", lambda options: pytest.fail("TensorFlow is loaded first"))
    text = "directory: out\naxes:\n  LAMDA: [1, 2]\ngin_files: [gin/recipes/demo_student.gin]\n"
    Path("s.yaml").write_text(text)
    Path("good.yaml").write_text(text.replace("LAMDA", "LAMBDA"))
    Path("rows.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    assert main.main(["sweep", *words]) == exit_codes.MISTAKE
    assert message in capsys.readouterr().err


def test_the_status_of_a_sweep_that_has_no_plan_yet(tmp_path, capsys):
    path = tmp_path / "a.yaml"
    path.write_text(f"axes: {{RANDOM_SEED: [0]}}\ndirectory: {tmp_path}/deep/out\n")
    directory = tmp_path / "deep" / "out"
    assert main.main(["sweep", "status", str(path)]) == exit_codes.MISTAKE
    assert f"{directory} does not exist; `distill sweep {path}` starts the sweep" in capsys.readouterr().err
    with leases.preparing(directory), leases.preparing(directory):  # a second worker prepares the same sweep
        for target in (str(path), str(directory)):
            assert main.main(["sweep", "status", target]) == exit_codes.DONE
            assert (
                f"{directory} is being prepared: the sweep command (process {os.getpid()} on "
                in capsys.readouterr().out
            )
    assert not (tmp_path / "deep").exists()


def test_the_help_has_every_key_of_a_sweep_file(capsys):
    with pytest.raises(SystemExit, match="0"):
        main.main(["sweep", "--help"])
    told = capsys.readouterr().out
    for part in (schema.FILE, schema.AXIS, schema.LEVEL, schema.DESIGN, schema.SEARCH):
        for name, key in part.items():
            assert f"  {name:11} {key.text} ({schema.type_names(key.types)})\n" in told + "\n"
    assert sweep_files.shipped()["demo"].startswith("Standard training against step-by-step")
