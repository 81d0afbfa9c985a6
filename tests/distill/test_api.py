"""The Python interface: what ``import distill`` offers."""

import inspect
import typing

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


def classes(hint):
    """The classes of this package that an annotation consists of."""
    if inspect.isclass(hint) and hint.__module__.startswith("distill."):
        yield hint
    for part in typing.get_args(hint):
        yield from classes(part)


def test_classes_of_public_signatures_are_public():
    called = [value for value in map(distill.__getattr__, distill._PUBLIC) if inspect.isfunction(value)]
    for owner in (distill.Student, distill.Callback):
        called += [value for name, value in vars(owner).items() if inspect.isfunction(value) and name[0] != "_"]
    found = {one for function in called for hint in typing.get_type_hints(function).values() for one in classes(hint)}
    assert {distill.MeshConfig, distill.DecodeConfig, distill.Report, distill.RunStep} <= found
    assert not [one for one in found if getattr(distill, one.__name__, None) is not one]
