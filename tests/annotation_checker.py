"""The type checker of jaxtyping's annotations in tests: beartype, by whose settings an int is a float (PEP 484)."""

import beartype

checked = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
