"""The parts of a build that run on other machines: a range of rows is tokenised, and a shard is written, each at a time.

A build on Apache Beam (:mod:`distill.data.cache.pipeline`) keeps its intermediate files in a folder that all workers see:

STAGE/work/rows/<split>-00000.jsonl            rows, as the preprocessors get them
STAGE/work/rows/<split>.json                   the number of rows and of ranges; written last
STAGE/work/tokens/<task>/<split>-00000.npz     the records of a range
STAGE/work/tokens/<task>/<split>-00000.npy     their index, int32 [examples, slots, 3]
STAGE/work/tokens/<task>/<split>-00000.json    the number of examples, and size and hash of both files; written last
STAGE/work/shards/<task>/<split>-00000.json    the files of a shard

Every file is written under a temporary name and renamed. A range or shard that an earlier try finished, and whose files
have the recorded size and hash, is not built again.
"""

import contextlib
import dataclasses
import io
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import seqio
from etils import epath
from jaxtyping import Int32

from distill.data.cache import manifest, writing
from distill.tasks import feeding, registration

WORK = "work"
Range = tuple[int, int, int]  # number of the part, number of the range in it, examples


@dataclasses.dataclass(frozen=True)
class Part:
    """One split of one task.

    Attributes:
      task: registered name.
      split: SeqIO split.
      ranges: files of its rows.
      shard_size: examples in each shard but the last.
      most_shards: shards that it has if no row is left out.
    """

    task: str
    split: str
    ranges: int
    shard_size: int
    most_shards: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """What every worker gets.

    Attributes:
      stage: the folder that is built, which all workers see.
      register: registers the tasks again in another process.
      parts: the splits to build.
      formats: some of :data:`distill.data.cache.writing.FORMATS`.
    """

    stage: str
    register: Callable[[], registration.Registered]
    parts: tuple[Part, ...]
    formats: tuple[str, ...]


def work(stage: epath.PathLike) -> epath.Path:
    """Returns the folder of the intermediate files."""
    return epath.Path(stage) / WORK


@contextlib.contextmanager
def replaced(path: epath.Path) -> Iterator[BinaryIO]:
    """Opens a temporary file that becomes ``path`` once it is complete; after an error nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: epath.Path, value: Any) -> None:
    """Writes a JSON file in one step."""
    with replaced(path) as file:
        file.write(json.dumps(value).encode())


def spill(
    stage: epath.PathLike, split: str, rows: Iterable[dict[str, Any]], size: int, on_row: Callable[[int], None]
) -> tuple[int, int]:
    """Writes a split's rows to files of ``size`` rows, unless an earlier try did.

    Args:
      stage: the folder that is built.
      split: whose rows.
      rows: as :func:`distill.tasks.feeding.rows` yields them; they are read once, and not held in memory.
      size: rows per file.
      on_row: called with the number of rows written so far.

    Returns:
      The numbers of rows and of files.
    """
    done = work(stage) / "rows" / f"{split}.json"
    if done.exists():
        saved = json.loads(done.read_text())
        if saved["size"] == size and all(_row_file(stage, split, i).exists() for i in range(saved["ranges"])):
            return saved["rows"], saved["ranges"]
    number = ranges = 0
    remaining = iter(rows)
    first = next(remaining, None)
    while first is not None:
        with replaced(_row_file(stage, split, ranges)) as file:
            row: dict[str, Any] | None = first
            for _ in range(size):
                if row is None:
                    break
                file.write(feeding.row_bytes(row))
                number += 1
                on_row(number)
                row = next(remaining, None)
        first = row
        ranges += 1
    write_json(done, {"rows": number, "ranges": ranges, "size": size})
    return number, ranges


def _row_file(stage: epath.PathLike, split: str, number: int) -> epath.Path:
    return work(stage) / "rows" / f"{split}-{number:05d}.jsonl"


def token_file(stage: epath.PathLike, part: Part, number: int, suffix: str) -> epath.Path:
    """Returns a file of a range's tokens: ``npz`` (records uint8, lengths int64), ``npy`` or ``json``."""
    return work(stage) / "tokens" / part.task / f"{part.split}-{number:05d}.{suffix}"


def _finished(path: epath.Path, files: Callable[[Any], Sequence[dict[str, Any]]], root: epath.Path) -> Any:
    """What an earlier try wrote to a JSON file, if the files that it describes are undamaged; else None."""
    if not path.exists():
        return None
    try:
        saved = json.loads(path.read_text())
        for file in files(saved):
            manifest.check_file(root / file["file"], file)
    except (ValueError, KeyError, TypeError):
        return None
    return saved


def _task(plan: Plan, part: Part, number: int) -> seqio.Task:
    """The task, with the rows of one range."""
    if part.task not in seqio.TaskRegistry.names():
        plan.register()
    task = registration.get(part.task)
    assert isinstance(task.source, feeding.RecordDataSource)
    spec = task.source.spec
    table: dict[str, list[Any]] = {name: [] for name in spec}
    with _row_file(plan.stage, part.split, number).open("rb") as file:
        for line in file:
            row = json.loads(line.decode("utf-8", "surrogatepass"))
            for name, column in table.items():
                column.append(row[name])
    dataset = feeding.tensors(table, spec)

    def dataset_fn(split: str, shuffle_files: bool, seed: int | None = None) -> Any:
        del split, shuffle_files, seed
        return dataset

    source = seqio.FunctionDataSource(dataset_fn, splits=[part.split])
    return seqio.Task(part.task, source, task.output_features, preprocessors=task.preprocessors)


def tokenise(element: tuple[int, int], plan: Plan) -> Range:
    """Tokenises a range of rows into its file, unless an earlier try did.

    Args:
      element: number of the part, and of the range in it.
      plan: what to build.

    Returns:
      The element and the number of examples.
    """
    number, place = element
    part, root = plan.parts[number], epath.Path(plan.stage)
    described = token_file(root, part, place, "json")
    if saved := _finished(described, lambda entry: entry["files"], root):
        return number, place, saved["examples"]
    found = list(writing.records_of(_task(plan, part, place), part.split))
    index = np.stack([row for _, row in found]) if found else np.zeros((0, 0, len(manifest.INDEX_COLUMNS)), np.int32)
    records = np.frombuffer(b"".join(record for record, _ in found), np.uint8)
    lengths = np.array([len(record) for record, _ in found], np.int64)
    files = []
    for suffix, save in (
        ("npz", lambda to: np.savez(to, records=records, lengths=lengths)),
        ("npy", lambda to: np.save(to, index)),
    ):
        path = token_file(root, part, place, suffix)
        content = io.BytesIO()  # zip files need a file that can be sought in, which remote ones cannot
        save(content)
        with replaced(path) as file:
            file.write(content.getbuffer())
        files.append(manifest.of_file(path, root))
    write_json(described, {"examples": len(found), "files": files})
    return number, place, len(found)


def index_rows(stage: epath.PathLike, part: Part) -> Iterator[Int32[np.ndarray, "examples slots 3"]]:
    """Yields the index of a part, range by range; ranges without an example are left out."""
    for number in range(part.ranges):
        content = io.BytesIO(token_file(stage, part, number, "npy").read_bytes())
        index = np.load(content, allow_pickle=False)
        if len(index):
            yield index


def _records(stage: str, part: Part, sizes: Sequence[int], start: int, end: int) -> Iterator[bytes]:
    """The records ``start`` to ``end`` of a part whose ranges have these sizes."""
    first = 0
    for number, size in enumerate(sizes):
        if first < end and start < first + size:
            content = io.BytesIO(token_file(stage, part, number, "npz").read_bytes())
            with np.load(content, allow_pickle=False) as arrays:
                records, ends = arrays["records"].tobytes(), np.cumsum(arrays["lengths"]).tolist()
            begins = [0, *ends]
            for at in range(max(start - first, 0), min(end - first, size)):
                yield records[begins[at] : ends[at]]
        first += size


def shard_record(stage: epath.PathLike, part: Part, shard: int) -> epath.Path:
    """Returns the file that describes a finished shard: per format, its manifest entry."""
    return work(stage) / "shards" / part.task / f"{part.split}-{shard:05d}.json"


def write_shard(element: tuple[int, int], ranges: Iterable[Range], plan: Plan) -> None:
    """Writes one shard, unless an earlier try did; nothing if so few rows were kept that the shard does not exist.

    Args:
      element: number of the part, and of the shard in it.
      ranges: of all parts, in any order.
      plan: what to build.
    """
    number, shard = element
    part, root = plan.parts[number], epath.Path(plan.stage)
    sizes = [size for _, size in sorted((place, size) for of, place, size in ranges if of == number)]
    total = sum(sizes)
    start, end = shard * part.shard_size, min((shard + 1) * part.shard_size, total)
    if start >= end:
        return
    described = shard_record(root, part, shard)
    if _finished(described, lambda saved: [saved[form] for form in plan.formats], root):
        return
    shards = -(-total // part.shard_size)
    names = {form: f"{writing.prefix(part.task, part.split)}.{form}-{shard:05d}" for form in plan.formats}
    paths = {form: writing.shard_path(writing.folder(root, part.task) / name, shards) for form, name in names.items()}
    local = manifest.is_local(root)
    if local:
        described.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=described.parent if local else None) as scratch:
        files = {form: epath.Path(scratch) / form for form in plan.formats}
        writers = [writing.opened(path, form) for form, path in files.items()]
        for record in _records(plan.stage, part, sizes, start, end):
            for writer in writers:
                writer.write(record)
        for writer in writers:
            writer.close()
        entries = {}
        for form, file in files.items():
            path = paths[form]
            entries[form] = manifest.of_file(file, file.parent) | {
                "file": path.relative_to(root).as_posix(),
                "examples": end - start,
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            if local:
                os.replace(file, path)
            else:
                file.copy(path, overwrite=True)  # an object appears when it is complete
    write_json(described, entries)


def shard_entries(stage: epath.PathLike, part: Part, examples: int, form: str) -> list[dict[str, Any]]:
    """Returns the manifest entries of a part's shards."""
    shards = -(-examples // part.shard_size)
    return [json.loads(shard_record(stage, part, shard).read_text())[form] for shard in range(shards)]
