"""Blocks of rows: all rows once and in order, of even sizes; shards that cannot be."""

import gzip
import itertools
import json

import pytest

from distill.inference.shards import block_of
from distill.tasks.records import SourceError


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
@pytest.mark.parametrize("form", ["lines", "array", "gzip"])
def test_blocks_hold_all_rows_once_and_in_order(tmp_path, shards, form):
    rows = [json.dumps({"input": str(number)}) for number in range(7)]
    text = "[" + ",".join(rows) + "]" if form == "array" else "\n".join([*rows[:-2], "", "garbage"])
    path = tmp_path / "in.jsonl"
    path.write_bytes(gzip.compress(text.encode()) if form == "gzip" else text.encode())
    blocks = [block_of(path, index, shards) for index in range(1, shards + 1)]
    assert (blocks[0].first, blocks[-1].end) == (0, 7)
    assert all(one.end == other.first for one, other in itertools.pairwise(blocks))
    assert {block.end - block.first for block in blocks} <= {7 // shards, -(-7 // shards)}
    assert [block.name for block in blocks] == [f"{index}/{shards} of 7 rows" for index in range(1, shards + 1)]


@pytest.mark.parametrize("index, shards", [(0, 2), (3, 2), (-1, 2), (1, 0)])
def test_a_shard_that_is_none_of_all(tmp_path, index, shards):
    with pytest.raises(ValueError, match=f"--shard must be I/N with 1 ≤ I ≤ N; got {index}/{shards}"):
        block_of(tmp_path / "none.jsonl", index, shards)


def test_more_shards_than_rows_and_an_input_that_is_damaged(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"input": "1"}\n')
    with pytest.raises(ValueError, match=r"--shard=2/2: .*in\.jsonl has 1 row; use at most one shard per row"):
        block_of(path, 2, 2)
    path.write_text('[{"input": "1"}, {"input"')
    with pytest.raises(SourceError):
        block_of(path, 1, 1)
