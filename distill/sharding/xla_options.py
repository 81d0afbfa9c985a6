"""Validation of XLA compiler options that a run passes to its training step."""

from collections.abc import Mapping

import jax
from jax.sharding import Mesh

from distill.sharding import partitioning

Options = Mapping[str, bool | int | float | str]


def accepted(options: Options | None, mesh: Mesh | None = None) -> dict[str, bool | int | float | str] | None:
    """Validates ``options`` by compiling a trivial program with them, and returns them for ``jax.jit``.

    A mistake is thus reported before any data is read and before the step is traced. The options are those of
    ``XLA_FLAGS`` and ``LIBTPU_INIT_ARGS`` without leading dashes; each platform has its own.

    Args:
      options: name → value, or None, which is returned unchanged.
      mesh: the devices to compile for; None compiles for JAX's default device.

    Raises:
      ValueError: the options are no dict of str to bool, int, float or str, or the compiler rejects a name or a value;
        the message quotes the compiler.
    """
    if options is None:
        return None
    if not isinstance(options, Mapping):
        raise ValueError(f"COMPILER_OPTIONS must be a dict, name → value; got {options!r}")
    for name, value in options.items():
        if not isinstance(name, str) or not isinstance(value, bool | int | float | str):
            raise ValueError(
                "COMPILER_OPTIONS must map names (str) to values of type bool, int, float or str; "
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
        raise ValueError(f"the {platform} compiler rejects COMPILER_OPTIONS {chosen}: {words}") from None
    return chosen
