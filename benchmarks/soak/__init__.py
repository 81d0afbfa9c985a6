"""Long runs of ``train``, ``infer`` and ``extract``: whether memory, open files and processor time per step stay constant.

Three legs, each of which starts the command as a user does and samples its process tree from ``/proc``:

- ``train``: the quickstart recipe. Every ``--restart_minutes`` the run gets SIGTERM, must exit with 75, and the same
  command continues it.
- ``infer``: that student answers an endless stream of rows from a named pipe. Some rows are large, some are damaged.
- ``extract``: a job of many rows against a teacher on loopback, which fails some of the requests. It ends with SIGTERM,
  and its store is compared with the replies that the teacher gave.

A leg writes ``LEG.jsonl`` into the directory: one JSON object per sample. The verdict fits a line to values of blocks
and reports the drift over the whole leg, with a 95 % interval. For ``train`` a block is one attempt, from a minute after
its first step; the first attempt, which compiles what later ones read from the cache, is left out. A leg passes if

- resident memory, the median of each block, drifts by at most 2 % (buffers of batches in flight come and go, depending
  on the load of the machine: mean and peak are reported);
- the smallest number of open files is the same in every block;
- processor time per step, row or reply rises by at most 5 %, as a multiple of the time of a fixed computation that is
  sampled with it: other programs of the machine slow both;
- all exit codes and counts are as expected.

Wall time per step is reported and drawn, but has no limit: it depends on other programs of the machine.

    python -m benchmarks.soak train --minutes=120 --directory=build/soak
    python -m benchmarks.soak infer extract --minutes=60 --directory=build/soak
    python -m benchmarks.soak --report_only --directory=build/soak   # the verdict and soak.png of finished or running legs
"""
