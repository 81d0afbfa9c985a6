"""The flags of commands that run as several processes."""

import argparse

import pytest

from distill.cli import parser, process_flags


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
