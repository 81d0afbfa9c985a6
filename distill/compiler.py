"""Options of XLA's compiler that a run gives along with its training step."""

from collections.abc import Mapping

import jax
from jax.sharding import Mesh

from distill import partitioning

Options = Mapping[str, bool | int | float | str]


def accepted(options: Options | None, mesh: Mesh | None = None) -> dict[str, bool | int | float | str] | None:
    """``options`` as ``jax.jit`` takes them, after the compiler itself took them, for a program of nothing.

    So a mistake is told at once, and not after the data were read and the step was traced. The options are those of
    ``XLA_FLAGS`` and ``LIBTPU_INIT_ARGS`` without their dashes; each platform has its own.

    Args:
      options: name → value, or None.
      mesh: the devices to compile for; None takes JAX's default one.

    Raises:
      ValueError: names or values that the compiler does not take, in its own words.
    """
    if options is None:
        return None
    if not isinstance(options, Mapping):
        raise ValueError(f"compiler options (COMPILER_OPTIONS) are a dict, name → value; got {options!r}")
    for name, value in options.items():
        if not isinstance(name, str) or not isinstance(value, bool | int | float | str):
            raise ValueError(
                "compiler options (COMPILER_OPTIONS) are names with a bool, a number or a string each; "
                f"got {name!r}: {value!r}"
            )
    platform = (jax.devices() if mesh is None else mesh.devices.flat)[0].platform
    sharding = None if mesh is None else partitioning.replicated(mesh)
    nothing = jax.ShapeDtypeStruct((), "float32", sharding=sharding)
    chosen = dict(options)
    try:
        jax.jit(lambda x: x + 1, compiler_options=chosen).lower(nothing).compile()
    except jax.errors.JaxRuntimeError as error:
        words = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise ValueError(f"the {platform} compiler does not take COMPILER_OPTIONS {chosen}: {words}") from None
    return chosen
