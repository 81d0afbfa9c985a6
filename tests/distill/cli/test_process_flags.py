"""The flags of commands that run as several processes."""

import argparse

import pytest

from distill import exit_codes
from distill.cli import main, parser, process_flags


def test_a_cluster_that_is_not_recognised_is_described():
    command = argparse.ArgumentParser()
    process_flags.add(command)
    given = ["--multiprocess", "--coordinator_address=h:1", "--num_processes=2", "--process_id=1"]
    assert vars(command.parse_args(given)) == {
        "multiprocess": True, "coordinator_address": "h:1", "num_processes": 2, "process_id": 1,
        "heartbeat_timeout_seconds": 100,
    }  # fmt: skip
    with pytest.raises(SystemExit):
        command.parse_args(["--heartbeat_timeout_seconds=0"])


def test_the_commands_that_run_on_several_hosts_have_them():
    for name in ("train", "eval", "sweep"):
        assert parser.of_command(name).get_default("heartbeat_timeout_seconds") == 100


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "--coordinator_address=h",
            "argument --coordinator_address: must be HOST:PORT with a port from 1 to 65535, such as",
        ),
        ("--coordinator_address=h:99999 --num_processes=1 --process_id=0", "--coordinator_address: must be HOST:PORT"),
        (
            "--coordinator_address=h:1 --num_processes=0 --process_id=0",
            "--num_processes: must be a whole number ≥ 1; got '0'",
        ),
        (
            "--coordinator_address=h:1 --num_processes=2 --process_id=-1",
            "--process_id: must be a whole number ≥ 0; got '-1'",
        ),
        (
            "--coordinator_address=h:1 --num_processes=2",
            "--coordinator_address=h:1 needs --process_id too; give all three",
        ),
        ("--coordinator_address=h:1", "--coordinator_address=h:1 needs --num_processes and --process_id too; give all"),
        (
            "--coordinator_address=h:1 --num_processes=2 --process_id=2",
            "--process_id=2 is not one of --num_processes=2 processes, which count from 0: expected 0 to 1",
        ),
        ("--multiprocess --num_processes=2 --process_id=2", "--process_id=2 is not one of --num_processes=2 processes"),
    ],
)
def test_a_process_that_is_not_described_is_refused_before_anything_is_loaded(given, message, capsys):
    for command in ("train", "eval --gin_file=a.gin", "sweep x.yaml --index=0"):
        try:
            code = main.main([*command.split(), *given.split()])
        except SystemExit as ended:
            code = ended.code
        said = capsys.readouterr().err
        assert code == exit_codes.MISTAKE and message in said and "loading TensorFlow" not in said


def test_a_recognised_cluster_may_describe_the_rest():
    for given in ("--coordinator_address=h:1 --multiprocess", "--multiprocess --num_processes=2", ""):
        process_flags.check(parser.of_command("train").parse_args(["--gin_file=a.gin", *given.split()]))
