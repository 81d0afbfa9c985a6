"""Trip counts of loops that are written by hand, in the forms that compilers print."""

import pytest

from distill.precompile import hlo, loops
from distill.precompile.loops import Trips


def loop(*, start=0, bound=10, step=1, direction="LT", compare="%i, %n", condition="", root="%less", config=""):
    text = f"""HloModule m

%condition (p: (s32[], pred[])) -> pred[] {{
  %p = (s32[], pred[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] constant({bound})
  %less = pred[] compare({compare}), direction={direction}
{condition}
}}

%body (q: (s32[], pred[])) -> (s32[], pred[]) {{
  %q = (s32[], pred[]) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %flag = pred[] get-tuple-element(%q), index=1
  %one = s32[] constant({step})
  %next = s32[] add(%j, %one)
  ROOT %out = (s32[], pred[]) tuple(%next, %flag)
}}

ENTRY %main () -> (s32[], pred[]) {{
  %zero = s32[] constant({start})
  %no = pred[] constant(false)
  %init = (s32[], pred[]) tuple(%zero, %no)
  ROOT %while = (s32[], pred[]) while(%init), condition=%condition, body=%body{config}
}}
"""
    if not condition:
        text = text.replace(f"  {root} =", f"  ROOT {root} =")
    module = hlo.parse(text)
    return loops.trips(module, module.entry, module.entry.instructions["while"])


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({}, 10),
        ({"start": 4}, 6),
        ({"step": 3}, 4),
        ({"direction": "LE"}, 11),
        ({"direction": "NE", "step": 2}, 5),
        ({"start": 10}, 0),
        ({"start": 12}, 0),
        ({"start": 9, "bound": 0, "step": -1, "direction": "GE"}, 10),
        ({"start": 9, "bound": 0, "step": -2, "direction": "GT"}, 5),
        ({"compare": "%n, %i", "direction": "GT"}, 10),
    ],
)
def test_counters(arguments, expected):
    assert loop(**arguments) == Trips(expected)


@pytest.mark.parametrize(
    "arguments", [{"step": -1}, {"step": 0}, {"direction": "EQ"}, {"direction": "NE", "step": 3}, {"compare": "%n, %n"}]
)
def test_loops_without_a_bound_are_counted_once(arguments):
    assert loop(**arguments) == Trips(1, exact=False, known=False)


def test_a_loop_that_may_end_earlier_is_counted_to_its_bound():
    condition = (
        "  %done = pred[] get-tuple-element(%p), index=1\n"
        "  %go = pred[] not(%done)\n"
        "  ROOT %both = pred[] and(%less, %go)"
    )
    assert loop(condition=condition) == Trips(10, exact=False)


def test_the_compilers_count_is_used_where_it_is_printed():
    config = ', backend_config={"known_trip_count":{"n":"7"}}'
    assert loop(direction="EQ", config=config) == Trips(7)
