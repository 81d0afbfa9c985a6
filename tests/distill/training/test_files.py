"""Small files are replaced whole."""

import pytest
from etils import epath

from distill.training.files import replace_text


def test_a_write_that_fails_leaves_the_earlier_text(tmp_path):
    path = epath.Path(tmp_path) / "a.json"
    replace_text(path, "one")
    replace_text(path, "two")
    assert path.read_text() == "two"
    with pytest.raises(UnicodeEncodeError):
        replace_text(path, "\ud800")
    assert path.read_text() == "two"
