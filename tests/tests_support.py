"""Rows and questions of several tests, and JSON lines and folders written and read."""

import json
import pathlib

QUESTIONS = [f"{i} apples and {i * 7 % 11} pears{'?' * (i % 3)}, naïve café" for i in range(50)]


def write_rows(path, number, start=0):
    """Sums to be answered, with the way to the answer; every fifth row lacks its rationale."""
    with path.open("w") as file:
        for i in range(start, start + number):
            a, b = i % 7, (i // 7) % 5
            row = {"question": f"{a} and {b}?", "answer": str(a + b)}
            if i % 5 != 4:
                row["why"] = f"{a} plus {b} is {a + b}."
            file.write(json.dumps(row) + "\n")


def write_lines(path: pathlib.Path, rows) -> pathlib.Path:
    """Writes JSON lines; strings are written as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def read_lines(path):
    """Reads JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def files_of(folder):
    """All files of a folder: path → bytes."""
    folder = pathlib.Path(folder)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
