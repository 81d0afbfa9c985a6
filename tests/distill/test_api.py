"""The Python interface: what ``import distill`` offers."""

import inspect

import pytest

import distill


def test_every_public_name_can_be_imported():
    assert set(distill.__all__) == {*distill._PUBLIC, "__version__"}
    assert {name for name in dir(distill) if not name.startswith("_")} == set(distill.__all__) - {"__version__"}
    assert "__version__" in dir(distill)
    for name in distill._PUBLIC:
        found = getattr(distill, name)
        assert inspect.ismodule(found) == (name in ("losses", "optimizers"))
        assert found.__doc__, name
    with pytest.raises(AttributeError, match="'trian'; it has Answer"):
        _ = distill.trian
