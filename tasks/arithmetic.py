"""Safe evaluation of arithmetic expressions written by a model: no code is executed, time is bounded, nothing raises."""

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

MAX_LENGTH = 256
"""Characters; longer text has no value."""
_MAX_EXPONENT = 64
_MAX_BITS = 4096  # of a numerator or denominator, on the way or at the end

# Everything Python's arithmetic needs and nothing else: no names, commas, comparisons or keywords reach the parser.
_ALLOWED = re.compile(r"[0-9.+\-*/%() \t\n]|(?<=[0-9.])[eE](?=[0-9+\-])")
_JUNCTIONS = re.compile(r"(?<=[ )])(?:and|or)(?=[ (])")

_BINARY: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: operator.mod,
}
_UNARY: dict[type[ast.unaryop], Callable[[Fraction], Fraction]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


class _NoValueError(Exception):
    pass


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if abs(exponent) > _MAX_EXPONENT:
        raise _NoValueError
    if exponent.denominator == 1:
        return base ** int(exponent)
    if base < 0:
        raise _NoValueError
    return Fraction(float(base) ** float(exponent))


def _value(node: ast.AST) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int) and not isinstance(node.value, bool):
        value = Fraction(node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, float):
        value = Fraction(repr(node.value))  # from its digits, so that 0.1 is a tenth
    elif isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        value = _UNARY[type(node.op)](_value(node.operand))
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        value = _power(_value(node.left), _value(node.right))
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        value = _BINARY[type(node.op)](_value(node.left), _value(node.right))
    elif isinstance(node, ast.BoolOp):  # only let through by `junctions`
        values = [_value(operand) for operand in node.values]
        stops = (lambda value: value == 0) if isinstance(node.op, ast.And) else (lambda value: value != 0)
        value = next((value for value in values[:-1] if stops(value)), values[-1])
    else:
        raise _NoValueError
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise _NoValueError
    return value


def evaluate(expression: str | None, *, junctions: bool = False) -> Fraction | None:
    """The exact value of ``+ - * / // % **``, parentheses and decimal numbers; None if it has none.

    Has no value: text longer than :data:`MAX_LENGTH`, powers beyond 64 and numbers beyond 4,096 bits, division by zero, and
    everything that is not arithmetic (words, unknowns, tuples, comparisons, calls). Python's grammar applies, as in the
    paper's metric, except that nothing is executed.

    Args:
      expression: the text.
      junctions: also evaluate ``and`` and ``or`` as Python does ("(29 / 2) and (30 / 2)" is 15). The published metric does
        so by accident; only its figures are recomputed this way.

    >>> evaluate("( ( 17.0 + 15.0 ) + 2.0 )")
    Fraction(34, 1)
    >>> evaluate("9 ** 9 ** 9") is None
    True
    """
    if not expression or len(expression) > MAX_LENGTH:
        return None
    text = expression.strip()
    if _ALLOWED.sub("", _JUNCTIONS.sub("", text) if junctions else text):
        return None
    try:
        return _value(ast.parse(text, mode="eval").body)
    except (_NoValueError, SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None


def same_value(a: str | None, b: str | None, *, junctions: bool = False) -> bool:
    """Whether both have a value and it is the same (to nine digits, to accept rounded decimals)."""
    first, second = evaluate(a, junctions=junctions), evaluate(b, junctions=junctions)
    if first is None or second is None:
        return False
    return abs(first - second) <= Fraction(1, 10**9) * max(Fraction(1), abs(first), abs(second))
