"""``~`` in paths that no shell has read."""

import pwd
import types

import pytest

from distill.api.paths import expand_home


@pytest.fixture(autouse=True)
def home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")


@pytest.mark.parametrize(
    "value, expected",
    [
        ("~/runs/a", "/home/someone/runs/a"),
        ("runs/~/a", "runs/~/a"),
        ("~", "~"),
        ("~ /a", "~ /a"),
        ("gs://bucket/~/a", "gs://bucket/~/a"),
        ({"train": "~/a", "n": 3}, {"train": "/home/someone/a", "n": 3}),
        (["~/a", ("~/b", None)], ["/home/someone/a", ("/home/someone/b", None)]),
        (2.5, 2.5),
    ],
)
def test_home_folders(value, expected):
    assert expand_home(value) == expected


def test_the_home_folder_of_a_named_user(monkeypatch):
    users = {"someone": "/home/someone", "other": "/elsewhere/other"}
    monkeypatch.setattr(pwd, "getpwnam", lambda name: types.SimpleNamespace(pw_dir=users[name]))
    assert expand_home("~other/a") == "/elsewhere/other/a"


def test_an_unknown_user_is_an_error():
    with pytest.raises(ValueError, match=r"'~no-such-user/a': .*no user 'no-such-user'"):
        expand_home({"train": ["~no-such-user/a"]})
