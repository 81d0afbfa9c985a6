"""``distill prompt`` prints what ``--prompt`` reads."""

from distill import exit_codes
from distill.cli import main
from distill.teacher.prompts import templates


def test_every_shipped_prompt_is_printed_and_its_copy_is_the_same_prompt(tmp_path, capsys):
    for name in templates.names():
        assert main.main(["prompt", name]) == 0
        (tmp_path / "copy.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
        assert templates.load(tmp_path / "copy.yaml").hash == templates.load(name).hash


def test_an_unknown_prompt_lists_those_that_exist(capsys):
    assert main.main(["prompt", "cqq"]) == exit_codes.MISTAKE
    told = capsys.readouterr()
    assert "no shipped prompt 'cqq'; did you mean 'cqa'? (shipped prompts: anli1, " in told.err and not told.out
