"""How many rows a batch of packed windows takes, and how full it is: this project's placement against first-fit.

Both place the same rows of CommonsenseQA or SVAMP in the same order, label and rationale of a row in one batch, until a row
does not fit. Only lengths are needed, so nothing is trained.

    python -m benchmarks.window_fill --data_dir=DIR --vocabulary=t5.model --set=svamp --windows=8 --inputs=256 --targets=144
"""

import argparse
import importlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from distill.data.packing import Layout, Planner

Group = list[tuple[int, int]]


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--set", default="svamp", choices=["svamp", "cqa"])
    parser.add_argument("--vocabulary", default="t5", help="t5, bytes or the path of a SentencePiece model")
    parser.add_argument("--windows", type=int, default=8, help="windows per batch")
    parser.add_argument("--inputs", type=int, default=256, help="encoder tokens per window")
    parser.add_argument("--targets", type=int, default=144, help="decoder tokens per window")
    parser.add_argument("--batches", type=int, default=100)
    return parser.parse_args(given)


def groups_of(options: argparse.Namespace) -> list[Group]:
    """Returns the input and target tokens of each row's label and rationale, cut to the window."""
    from distill.tasks import registration, vocabularies

    dataset = importlib.import_module(f"distill.tasks.{options.set}").dataset(options.data_dir)
    names = registration.register(dataset, vocabularies.load(options.vocabulary))
    examples = registration.get(names.paired).get_dataset(
        None, split="train", shuffle=False, trim_output_features=False
    )
    return [
        [
            (min(len(example[inputs]), options.inputs), min(len(example[targets]), options.targets))
            for inputs, targets in (("inputs", "targets"), ("rationale_inputs", "rationale_targets"))
            if len(example[targets])
        ]
        for example in examples.as_numpy_iterator()
    ]


def first_fit(layout: Layout) -> Callable[[Group], bool]:
    """Returns a function that places a group in the first windows with room, or returns False."""
    free = np.tile([layout.encoder_length, layout.decoder_length], (layout.windows, 1))

    def add(group: Group) -> bool:
        nonlocal free
        trial = free.copy()
        for size in group:
            fits = (trial >= size).all(axis=1)
            if not fits.any():
                return False
            trial[fits.argmax()] -= size
        free = trial
        return True

    return add


def filled(
    groups: Sequence[Group], layout: Layout, batches: int, planner: Callable[[Layout], Callable[[Group], bool]]
) -> tuple[float, np.ndarray, float]:
    """Places shuffled groups.

    Returns:
      Rows per batch; float64 [2], the filled shares of encoder and decoder windows; rows placed per second.
    """
    rng = np.random.default_rng(0)
    order: Iterator[int] = itertools.chain.from_iterable(rng.permutation(len(groups)).tolist() for _ in iter(int, 1))
    rows, tokens, started, waiting = 0, np.zeros(2, np.int64), time.perf_counter(), next(order)
    for _ in range(batches):
        add = planner(layout)
        while add(groups[waiting]):
            rows += 1
            tokens += np.sum(groups[waiting], axis=0)
            waiting = next(order)
    shares = tokens / (batches * layout.windows * np.array([layout.encoder_length, layout.decoder_length]))
    return rows / batches, shares, rows / (time.perf_counter() - started)


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(given)
    groups = groups_of(options)
    layout = Layout(options.windows, options.inputs, options.targets)
    print(
        f"{options.set}, {options.windows} windows of {options.inputs} + {options.targets}, {options.batches} batches"
    )
    for name, planner in (("first-fit", first_fit), ("balanced", lambda layout: Planner(layout).add)):
        rows, (encoder, decoder), speed = filled(groups, layout, options.batches, planner)
        print(
            f"  {name:10} {rows:7.1f} rows per batch, {encoder:.1%} of the encoder and {decoder:.1%} of the decoder "
            f"filled, {speed:,.0f} rows/s"
        )


if __name__ == "__main__":
    main()
