"""Writes the rows that the accelerator benchmark trains on, where TensorFlow and SeqIO are installed.

    python -m benchmarks.accelerator.prepare --data_dir=DIR --vocabulary=t5.model --out=FOLDER

``DIR`` holds the paper's SVAMP and CommonsenseQA. Rows of ``nli`` have random tokens and the lengths of a natural language
inference set with explanations: 110 input tokens, 3 label tokens and 30 rationale tokens on average.
"""

import argparse
import hashlib
import importlib
import json
from pathlib import Path

import numpy as np

from benchmarks import sides
from benchmarks.accelerator import cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--vocabulary", default="t5", help="t5, bytes or the path of a SentencePiece model")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=2048, help="largest number of rows per set")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sets = {name: real_rows(name, options) for name in ("svamp", "cqa")}
    sets["nli"] = random_rows(options.rows)
    path = options.out / "rows.npz"
    cases.write_rows(path, sets)
    manifest = {
        "rows": {name: len(rows) for name, rows in sets.items()},
        "mean_tokens": {
            name: {part: round(float(np.mean([len(getattr(row, part)) for row in rows])), 1) for part in cases.PARTS}
            for name, rows in sets.items()
        },
        "vocabulary": Path(options.vocabulary).name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "parameters": "random, T5's initialisation, jax.random.key(0)",
    }
    (options.out / "rows.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(json.dumps(manifest))


def real_rows(name: str, options: argparse.Namespace) -> list[cases.Row]:
    """Rows of a registered set; a row without a usable rationale is left out."""
    from distill.tasks import registration, vocabularies

    dataset = importlib.import_module(f"distill.tasks.{name}").dataset(options.data_dir)
    names = registration.register(dataset, vocabularies.load(options.vocabulary))
    features = ("inputs", "targets", "rationale_inputs", "rationale_targets")
    task = registration.get(names.paired).get_dataset(None, split="train", shuffle=False, trim_output_features=False)
    rows = (cases.Row(*(example[one].astype(np.int32) for one in features)) for example in task.as_numpy_iterator())
    return [row for _, row in zip(range(options.rows), (row for row in rows if min(map(len, row)) > 0))]


def random_rows(number: int) -> list[cases.Row]:
    """Rows of random tokens with log-normal lengths. A sequence longer than the windows of ``nli`` is truncated to them."""
    inputs, targets = cases.LENGTHS["nli"]
    parts = [
        [
            np.append(piece[:-1][: longest - 1], piece[-1:])
            for piece in sides.input_rows(number, mean, 32000, seed, spread)
        ]
        for seed, (mean, spread, longest) in enumerate(
            ((110, 0.4, inputs), (3, 0.0, targets), (112, 0.4, inputs), (30, 0.5, targets))
        )
    ]
    return [cases.Row(*pieces) for pieces in zip(*parts, strict=True)]


if __name__ == "__main__":
    main()
