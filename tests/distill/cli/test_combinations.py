"""Flags that would be ignored are errors: each rule names flags of its command, and holds."""

import pytest

from distill import exit_codes
from distill.cli import combinations, main, parser


@pytest.mark.parametrize("command", combinations.RULES)
def test_every_rule_names_flags_of_its_command(command):
    known = {action.dest for action in parser.of_command(command)._actions} | {"status", "print"}
    for rule in combinations.RULES[command]:
        assert {name.partition("=")[0] for name in (*rule.flags, *rule.others)} <= known


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("sweep x.yaml --topology=v5e:4x4", "--topology has an effect only with --dry_run"),
        ("sweep x.yaml --gpus_per_run=1", "--gpus_per_run has an effect only with --executor=ray"),
        ("sweep x.yaml --index=1 --run=a", "--index and --run exclude each other"),
        ("sweep x.yaml --index=0 --workers=2", "--workers and --index exclude each other; --run and --index train in"),
        (
            "sweep x.yaml --report_only --dry_run",
            "--report_only and --dry_run exclude each other; --report_only trains and changes nothing",
        ),
        ("sweep status x --workers=2", "status and --workers exclude each other"),
        (
            "sweep x.yaml --multiprocess",
            "--multiprocess has an effect only with --run or --index; several processes train one",
        ),
        ("sweep x.yaml --multiprocess --workers=2", "--multiprocess has an effect only with --run or --index"),
        ("sweep x.yaml --coordinator_address=a:1", "--coordinator_address has an effect only with --run or --index"),
        ("train --process_id=0", "--process_id has an effect only with --coordinator_address or --multiprocess"),
        ("sweep --list --index=0", "--list and --index exclude each other"),
        ("data --gin_file=gin/tasks/svamp.gin --data_dir=d --set=cqa", "--set and --gin_file exclude each other"),
        ("data --data_dir=d --answer=choice", "--answer has an effect only with --file"),
        ("data --file=train=a --set=cqa", "--set has an effect only with --data_dir"),
        ("precompile --topology=v5e:4x4 --max_compiles=3", "--max_compiles has an effect only with --search"),
        (
            "precompile --topology=v5e:4x4 --search --price_per_chip_hour=1.2",
            "--price_per_chip_hour and --search exclude each other; a search only ranks training steps",
        ),
        ("precompile --topology=v5e:4x4 --search --steps=decode", "--steps=decode and --search exclude each other"),
        ("export --model_dir=. --output=o --quantization=int8", "--quantization has an effect only with --format=ct2"),
    ],
)
def test_a_flag_without_an_effect(given, message, capsys):
    assert main.main(given.split()) == exit_codes.MISTAKE
    assert message in capsys.readouterr().err


def test_a_default_that_is_given_is_no_mistake(capsys):
    assert main.main(["sweep", "x.yaml", "--executor=processes", "--run=a"]) == exit_codes.MISTAKE
    assert "exclude" not in capsys.readouterr().err
