"""``distill profile`` on a trace that is given; a real one is in tests/distill/training/test_profiling.py."""

import gzip
import json

from distill.cli import main


def test_the_table_shares_and_the_rest(tmp_path, capsys):
    operation = {"ph": "X", "pid": 1, "tid": 1}
    events = [
        {**operation, "ts": 100 * n, "dur": 90 - n, "name": f"kind{n}.1", "args": {"hlo_op": f"kind{n}.1"}}
        for n in range(9)
    ]
    path = tmp_path / "profile/plugins/profile/2026/host.trace.json.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(json.dumps({"traceEvents": events}).encode()))
    assert main.main(["profile", str(tmp_path), "--top=2", "--by_instruction"]) == 0
    out = capsys.readouterr().out
    assert "no whole step" in out
    assert "kind0.1" in out and "kind1.1" in out and "kind2.1" not in out
    assert f"{90 / sum(90 - n for n in range(9)):.1%}" in out
    assert "and 7 more operations (--top shows more); all together 0.77 ms" in out
