"""The flags of ``distill sweep``."""

import argparse

import pytest

from distill.cli import sweep_flags


@pytest.fixture
def command():
    found = argparse.ArgumentParser()
    sweep_flags.add(found)
    return found


def test_a_state_or_a_file_is_named(command):
    assert command.parse_args(["status", "a.yaml"]).sweep == ["status", "a.yaml"]
    assert command.parse_args(["--list"]).sweep == []
    assert command.parse_args(["a.yaml", "--run=x", "--run=y", "--workers=2"]).run == ["x", "y"]


def test_all_added_points_or_some_are_dropped(command):
    given = command.parse_args(["a.yaml", "--drop_more", '--drop_more={"LAMBDA": 3}', "--dry_run"])
    assert given.drop_more == [None, {"LAMBDA": 3}] and given.sweep == ["a.yaml"]


@pytest.mark.parametrize(
    "flag", ["--drop_more=a.yaml", "--drop_more={}", "--workers=0", "--retries=-1", "--executor=slurm", "--index=a"]
)
def test_values_out_of_range_are_refused(command, flag, capsys):
    with pytest.raises(SystemExit):
        command.parse_args(["a.yaml", flag])
    assert f"argument {flag.split('=')[0]}: " in capsys.readouterr().err
