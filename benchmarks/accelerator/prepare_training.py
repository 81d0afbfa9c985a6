"""Writes the token files that ``benchmarks.accelerator.end_to_end`` trains on, with TensorFlow and SeqIO.

The files go to a machine that has neither: windows of the paper's SVAMP rows with PaLM's rationales (Apache-2.0,
google-research/distilling-step-by-step), and the demo's two training sets and test rows, which are synthetic.

    python -m benchmarks.accelerator.prepare_training --data_dir=DIR --vocabulary=t5.model --out=FOLDER [--epochs=2]
"""

import argparse
import json
import pathlib
import tempfile

MAX_BYTES = 8 * 2**20  # the files travel with the program


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="holds svamp/ in the paper's layout")
    parser.add_argument("--vocabulary", default="t5", help="t5, bytes or the path of a SentencePiece model")
    parser.add_argument("--out", required=True)
    parser.add_argument("--windows", type=int, default=64, help="windows that are packed together")
    parser.add_argument("--inputs", type=int, default=512)
    parser.add_argument("--targets", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=2, help="passes over SVAMP, each in another order")
    parser.add_argument("--pretraining_rows", type=int, default=20000, help="of the demo")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    from distill.data import token_batches
    from distill.data.batches import BatchStream
    from distill.data.packing import Layout
    from distill.experiments import demo
    from distill.inference import exact_match
    from distill.tasks import demo_world, registration, svamp, vocabularies

    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    manifest: dict[str, object] = {"files": {}}

    def windows(name: str, task: str, layout: Layout, batches: int | None = None) -> None:
        stream = BatchStream(task, layout, seed=0)
        number = token_batches.write(out / name, stream, batches)
        found = token_batches.Windows.read(out / name)
        tokens = sum(int((array > 0).sum()) for key, array in found.arrays.items() if key in _TOKENS)
        manifest["files"][name] = {
            "task": task,
            "windows": number,
            "inputs": layout.encoder_length,
            "targets": layout.decoder_length,
            "examples": round(float(found.examples.sum())),
            "tokens": tokens,
            "sha256": found.fingerprint,
        }

    vocabulary = vocabularies.load(options.vocabulary)
    names = registration.register(svamp.dataset(options.data_dir), vocabulary)
    layout = Layout(options.windows, options.inputs, options.targets)
    stream, batches = BatchStream(names.paired, layout, seed=0), 0
    while stream.epoch() < options.epochs:
        next(stream)
        batches += 1
    windows("student.npz", names.paired, layout, batches)
    manifest["vocabulary"] = f"{pathlib.Path(options.vocabulary).name}: {vocabulary.vocab_size} ids"
    manifest["vocab_size"] = max(32128, vocabulary.vocab_size)

    with tempfile.TemporaryDirectory() as folder:
        words = vocabularies.load(str(demo.write_vocabulary(pathlib.Path(folder))))
        pretraining = demo_world.pretraining(train_rows=options.pretraining_rows)
        names = registration.register(pretraining, words, label_prefix="")
        windows("demo_pretraining.npz", names.label, Layout(24, 32, 16))
        names = registration.register(demo_world.dataset(), words)
        windows("demo_student.npz", names.paired, Layout(32, 32, 32))
        rows = list(
            registration.get(names.label)
            .get_dataset(None, split="test", shuffle=False, trim_output_features=False)
            .as_numpy_iterator()
        )
    exact_match.write_rows(out / "demo_test.npz", [row["inputs"] for row in rows], [row["targets"] for row in rows])
    manifest["files"]["demo_test.npz"] = {"rows": len(rows)}
    manifest["demo_vocab_size"] = demo_world.VOCABULARY_SIZE
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    size = sum(path.stat().st_size for path in out.iterdir())
    print(json.dumps(manifest | {"bytes": size}, indent=2))
    if size > MAX_BYTES:
        raise SystemExit(f"{out} holds {size:,} bytes, expected at most {MAX_BYTES:,}: give fewer --epochs")


_TOKENS = ("encoder_input_tokens", "decoder_target_tokens")

if __name__ == "__main__":
    main()
