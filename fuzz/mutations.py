"""Damaged inputs from good ones: of JSON, JSON lines, msgpack, safetensors, and texts; and of bytes.

Flipped bytes rarely get past a parser. These mutations change values, keys and structure, and keep the syntax.
"""

import copy
import itertools
import json
import random
import re
import struct
from typing import Any

import msgpack

_DIGITS, _DEEP = "\ue000digits\ue000", "\ue000deep\ue000"  # replaced after writing: json refuses to write both
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 255, 2**31 - 1, 2**31, 2**63, 2**64, -(2**63), 0.5, -0.0, 1e-320, 1e308,
    float("nan"), float("inf"), float("-inf"), "", " ", "\0", "\ud800", "é", "\u2028", "1", "true", "../x", "/etc/passwd",
    "a/b", ".", "..", "*", "{input}", "{0.__class__}", "a" * 5000, [], {}, [[]], [None], {"": None}, [0], [-1], [2**40] * 3,
    _DIGITS, _DEEP,
)  # fmt: skip
_MOST_PLACES = 5000
_TOKEN = re.compile(r"\w+|\s+|.", re.DOTALL)


def mutated(data: bytes, kind: str, draw: random.Random, words: tuple[str, ...] = ()) -> bytes:
    """A damaged copy of ``data``.

    Args:
      data: an input, good or damaged.
      kind: ``json``, ``lines`` (of JSON), ``msgpack``, ``safetensors``, ``text`` or ``bytes``.
      draw: the source of all choices.
      words: pieces of text to insert.
    """
    if draw.random() < 0.15:
        return _bytes(data, draw)
    try:
        return {"json": _json, "lines": _lines, "msgpack": _msgpack, "safetensors": _safetensors}.get(kind, _text)(
            data, draw, words
        )
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError, struct.error, msgpack.UnpackException):
        return _bytes(data, draw)


def _bytes(data: bytes, draw: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(len(out) + 1)
        match draw.randrange(4):
            case 0:
                out[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                del out[at : at + draw.choice((1, 4, 64))]
            case 2:
                out[at:at] = draw.choice((b"\0", b"\xff" * 8, b"[" * 3000, b"\xed\xa0\x80", b"\n", b'"', b"\x1f\x8b"))
            case _:
                start = draw.randrange(len(out) + 1)
                out[at:at] = out[start : start + draw.choice((1, 8, 200))]
    return bytes(out)


def _text(data: bytes, draw: random.Random, words: tuple[str, ...]) -> bytes:
    tokens = _TOKEN.findall(data.decode("utf-8", "surrogateescape")) or [""]
    extra = (
        *words,
        "",
        "\n",
        " ",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ":",
        "%",
        "@",
        "'",
        '"',
        "\\",
        "\0",
        "9" * 400,
        "é",
        "-",
    )
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(tokens))
        match draw.randrange(5):
            case 0:
                tokens[at] = draw.choice(extra)
            case 1:
                tokens.insert(at, draw.choice(extra) * draw.choice((1, 1, 1, 2, 60, 2000)))
            case 2:
                del tokens[at : at + draw.choice((1, 3, 20))]
            case 3:
                start = draw.randrange(len(tokens) or 1)
                tokens[at:at] = tokens[start : start + draw.choice((1, 5, 40))]
            case _:
                other = draw.randrange(len(tokens))
                tokens[at], tokens[other] = tokens[other], tokens[at]
        tokens = tokens or [""]
    return "".join(tokens).encode("utf-8", "surrogateescape")


def _json(data: bytes, draw: random.Random, words: tuple[str, ...]) -> bytes:
    return _written(_tree(json.loads(data), draw, words), draw)


def _lines(data: bytes, draw: random.Random, words: tuple[str, ...]) -> bytes:
    lines = data.split(b"\n")
    at = draw.randrange(len(lines))
    match draw.randrange(8):
        case 0:
            lines.insert(at, draw.choice((b"", b"null", b"[]", b"[" * 70 + b"]" * 70, b"\xff", b'{"id":', b"{}")))
        case 1:
            del lines[at]
        case 2:
            lines.insert(at, draw.choice(lines))
        case 3:
            return b"[" + b",".join(line for line in lines if line.strip()) + draw.choice((b"]", b"", b"] x"))
        case _:
            lines[at] = _json(lines[at], draw, words)
    return b"\n".join(lines)


def _msgpack(data: bytes, draw: random.Random, words: tuple[str, ...]) -> bytes:
    tree = msgpack.unpackb(data, strict_map_key=False)
    return msgpack.packb(_tree(tree, draw, words), unicode_errors="surrogatepass")


def _safetensors(data: bytes, draw: random.Random, words: tuple[str, ...]) -> bytes:
    (size,) = struct.unpack("<Q", data[:8])
    header, rest = _json(data[8 : 8 + size], draw, words), data[8 + size :]
    length = draw.choice((len(header),) * 6 + (0, 2**40, 2**63))
    return struct.pack("<Q", length) + header + rest


def _written(value: Any, draw: random.Random) -> bytes:
    text = json.dumps(value, ensure_ascii=draw.random() < 0.7)
    for mark, by in ((_DIGITS, draw.choice(("1" * 400, "9" * 5000))), (_DEEP, "[" * 70 + "]" * 70)):
        for spelled in (json.dumps(mark), json.dumps(mark, ensure_ascii=False)):
            text = text.replace(spelled, draw.choice((by, "[" * 20_000)) if mark == _DEEP else by)
    return text.encode("utf-8", "surrogatepass")


def _tree(root: Any, draw: random.Random, words: tuple[str, ...]) -> Any:
    """Changes one to three nodes of a tree of lists and dicts, in place; returns the root."""
    holder = [root]
    for _ in range(draw.choice((1, 1, 2, 3))):
        places = list(itertools.islice(_places(holder), _MOST_PLACES))
        parent, key = draw.choice(places)
        match draw.randrange(8):
            case 0 if isinstance(parent, dict):
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[draw.choice((*words, "", "é", "__class__", str(key) + "x"))] = copy.deepcopy(parent[key])
            case 2:
                other, where = draw.choice(places)
                if where in other if isinstance(other, dict) else where < len(other):
                    parent[key] = copy.deepcopy(other[where])  # a tree that contains itself cannot be written
            case 3:
                parent[key] = [parent[key]]
            case 4:
                parent[key] = _near(parent[key], draw)
            case 5 if words:
                parent[key] = draw.choice(words)
            case 6 if isinstance(parent[key], list) and parent[key]:
                parent[key] = [copy.deepcopy(one) for one in parent[key] * draw.choice((0, 2, 300))]
            case _:
                parent[key] = copy.deepcopy(draw.choice(_VALUES))
    return holder[0]


def _places(node: Any) -> Any:
    stack = [node]
    while stack:
        node = stack.pop()
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            yield node, key
            if isinstance(node[key], (dict, list)):
                stack.append(node[key])


def _near(value: Any, draw: random.Random) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return draw.choice((value + 1, value - 1, -value, value * 2**20, float(value), str(value)))
    if isinstance(value, float):
        return draw.choice((-value, value * 1e300, int(value) if value == value and abs(value) < 1e300 else 0))
    if isinstance(value, (str, bytes)):
        cut = draw.randrange(len(value) + 1)
        if isinstance(value, bytes):
            return value[:cut] + draw.choice((b"", b"\0", b"\xff" * 9)) + value[cut:]
        return draw.choice((value[:cut], value + "\ud800", value[:cut] + "\n" + value[cut:], value * 300, [value]))
    return value
