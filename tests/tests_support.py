"""Rows that several tests train on."""

import json


def write_rows(path, number, start=0):
    """Sums to be answered, with the way to the answer; every fifth row lacks its rationale."""
    with path.open("w") as file:
        for i in range(start, start + number):
            a, b = i % 7, (i // 7) % 5
            row = {"question": f"{a} and {b}?", "answer": str(a + b)}
            if i % 5 != 4:
                row["why"] = f"{a} plus {b} is {a + b}."
            file.write(json.dumps(row) + "\n")
