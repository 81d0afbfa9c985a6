"""The report in a real browser: draws, filters, searches, pages, is quick at 50,000 rows, and runs nothing from rows."""

import asyncio
import io
import json
import random
import time

import numpy as np
import pytest

from distill.tasks.records import Record
from distill.teacher.inspect import InspectConfig, inspect
from distill.teacher.inspect.statistics import FLAGS, Plan
from tests.distill.teacher.inspect.browser import Browser, find

HOSTILE = [
    "</script><script>document.body.dataset.owned = 1</script>",
    "<img src=x onerror='document.body.dataset.owned = 1'>",
    "\"><svg onload=document.body.dataset.owned=1>",
    "<style>body { display: none }</style>",
    "line\u2028end, nul \0, half \ud800, ${1}, {{x}}, <!-- ",
    "<iframe src='http://127.0.0.1:1/'></iframe><link rel=stylesheet href=http://127.0.0.1:1/x.css>",
]  # fmt: skip


def records(number, seed=0):
    lot = random.Random(seed)
    words = [f"word{n}" for n in range(5000)]
    teams = ("billing", "technical", "sales")
    for n in range(number):
        label = lot.choice(teams)
        yield Record(
            id=f"row-{n}",
            input=" ".join(lot.choices(words, k=lot.randint(15, 60))),
            label=label,
            llm_label=label if lot.random() < 0.8 else lot.choice(teams) if lot.random() < 0.9 else None,
            rationales=(" ".join(lot.choices(words, k=lot.randint(10, 80))),) if lot.random() < 0.97 else (),
        )


def report(tmp_path, rows, **changes):
    path = tmp_path / "report.html"
    settings = {"output": str(path), "records": rows, "plan": Plan(inputs=60, targets=70), "title": "a set"}
    result = inspect(InspectConfig(**(settings | changes)))
    return path, result


def look(url, visit):
    async def run():
        async with Browser(url) as browser:
            await browser.until("document.body && document.body.dataset.ready")
            result = await visit(browser)
            assert await browser.run("document.body.dataset.error || ''") == ""
            assert browser.errors == []
            assert [request for request in browser.requests if not request.startswith("file:")] == [], (
                "all is in the file"
            )
            return result

    return asyncio.run(run())


@pytest.fixture(autouse=True, scope="module")
def browser_at_hand():
    find()


def test_it_draws_filters_searches_and_pages(tmp_path):
    rows = list(records(700))
    path, result = report(tmp_path, rows)
    disagree = FLAGS.index("disagrees")
    wanted = sum(disagree in flags for flags in result.statistics.flags)

    async def visit(browser):
        assert await browser.run("document.querySelectorAll('#list .row').length") == 25
        assert await browser.run("document.querySelector('#list .row b').textContent") == "row-0"
        assert await browser.run("document.querySelectorAll('svg rect').length") > 30
        assert await browser.run("document.querySelector('.tile b').textContent") == "700"

        await browser.run(f"document.querySelector('.chip[data-flag=\"{disagree}\"]').click()")
        await browser.until(f"document.body.dataset.found === '{wanted}'")
        assert await browser.run(
            "[...document.querySelectorAll('#list .row')].every(r => r.textContent.includes('disagrees'))"
        )
        await browser.run(f"document.querySelector('.chip[data-flag=\"{disagree}\"]').click()")
        await browser.until(f"document.body.dataset.found === '{700 - wanted}'")
        await browser.run(f"document.querySelector('.chip[data-flag=\"{disagree}\"]').click()")
        await browser.until("document.body.dataset.found === '700'")

        await browser.run(
            "const s = document.getElementById('search'); s.value = 'ROW-69'; s.dispatchEvent(new Event('input'))"
        )
        await browser.until("document.body.dataset.found === '11'")
        assert await browser.run("document.querySelector('#list mark').textContent") == "row-69"
        assert "q=ROW-69" in await browser.run("location.hash")
        await browser.run("s.value = ''; s.dispatchEvent(new Event('input'))")
        await browser.until("document.body.dataset.found === '700'")

        await browser.run(
            "const l = document.getElementById('label'); l.value = 'sales'; l.dispatchEvent(new Event('change'))"
        )
        sales = sum("sales" in (row.label, row.llm_label) for row in rows)
        await browser.until(f"document.body.dataset.found === '{sales}'")
        await browser.run("location.hash = '#page=28'")
        await browser.until("document.querySelector('#list .row b').textContent === 'row-675'")
        assert await browser.run("document.getElementById('after').disabled")
        await browser.run("document.getElementById('before').click()")
        await browser.until("document.querySelector('#list .row b').textContent === 'row-650'")

        await browser.run(
            "const o = document.getElementById('sort'); o.value = 'rationale'; o.dispatchEvent(new Event('change'))"
        )
        longest = max(rows, key=lambda row: max((len(text.split()) for text in row.rationales), default=0))
        await browser.until(f"document.querySelector('#list .row b').textContent === '{longest.id}'")
        await browser.run("window.scrollTo(0, 0)")
        return await browser.picture()

    import matplotlib.image

    picture = matplotlib.image.imread(io.BytesIO(look(path.as_uri(), visit)))[..., :3]
    inks = np.unique((picture * 255).astype(np.uint8).reshape(-1, 3), axis=0)
    assert len(inks) > 50, "not a blank page"
    blue = (picture[..., 2] - picture[..., 0]) > 0.3
    assert blue.mean() > 0.005, "the charts' bars are there"


def test_failures_can_be_browsed_with_the_raw_reply(tmp_path):
    rows = list(records(30))
    inputs = tmp_path / "out.jsonl"
    import json

    inputs.write_text("".join(json.dumps({"id": r.id, "input": r.input, "label": r.label}) + "\n" for r in rows))
    asked = {"teacher": "t", "sample": 0, "purpose": "explain", "detail": "d"}
    failures = [
        {"id": f"row-{n}", "reason": "refused" if n % 3 else "cut off", "raw": f"raw reply {n} <b>", "input": row.input}
        for n, row in enumerate(rows[:9])
    ]
    failures = [asked | failure for failure in failures]
    (tmp_path / "out.failures.jsonl").write_text("".join(json.dumps(failure) + "\n" for failure in failures))
    path, _ = report(tmp_path, None, inputs=str(inputs))

    async def visit(browser):
        await browser.run("document.querySelector('[data-view=failures]').click()")
        await browser.until("document.body.dataset.found === '9'")
        assert "raw reply 0 <b>" in await browser.run("document.querySelector('#list pre').textContent")
        await browser.run(
            "const r = document.getElementById('reason'); r.value = 'cut off'; r.dispatchEvent(new Event('change'))"
        )
        await browser.until("document.body.dataset.found === '3'")
        await browser.run("document.querySelector('[data-view=rows]').click()")
        await browser.until("document.body.dataset.found === '30'")
        assert "raw reply 0 <b>" in await browser.run("document.querySelector('#list .row').textContent")

    look(path.as_uri(), visit)


def test_nothing_in_a_row_runs_or_loads(tmp_path):
    rows = [
        Record(id=f"{text} {n}", input=text, label=text, llm_label=text, rationales=(text, text + " again"))
        for n, text in enumerate(HOSTILE)
    ]
    path, _ = report(tmp_path, rows, title=HOSTILE[0])

    async def visit(browser):
        await browser.run(
            "const s = document.getElementById('search'); s.value = '<img'; s.dispatchEvent(new Event('input'))"
        )
        await browser.until("document.body.dataset.found === '1'")
        await browser.run("s.value = ''; s.dispatchEvent(new Event('input'))")
        await browser.until(f"document.body.dataset.found === '{len(rows)}'")
        assert await browser.run("document.body.dataset.owned || ''") == ""
        assert await browser.run("document.querySelectorAll('img, iframe, link').length") == 0
        assert await browser.run("document.querySelector('h1').textContent") == HOSTILE[0]
        shown = await browser.run(
            "[...document.querySelectorAll('#list .row > div:nth-of-type(1)')].map(node => node.textContent)"
        )
        assert shown[:4] == HOSTILE[:4]
        # And even if something got in, the page's policy would not let it run.
        await browser.run(
            "const x = document.createElement('script'); x.textContent = 'document.body.dataset.owned = 1';"
            "document.body.append(x)"
        )
        assert await browser.run("document.body.dataset.owned || ''") == ""
        browser.errors.clear()

    look(path.as_uri(), visit)


@pytest.mark.slow
def test_fifty_thousand_rows_are_light(tmp_path):
    started = time.monotonic()
    path, result = report(tmp_path, list(records(50_000)))
    made = time.monotonic() - started
    assert result.size < 20 * 2**20

    async def visit(browser):
        ready = await browser.run("performance.now()")
        begun = time.monotonic()
        await browser.run(
            "const s = document.getElementById('search'); s.value = 'word4999 word'; s.dispatchEvent(new Event('input'))"
        )
        await browser.until("document.body.dataset.found !== '50000'")
        searched = time.monotonic() - begun
        begun = time.monotonic()
        await browser.run("location.hash = '#page=2000'")
        await browser.until("document.querySelector('#list .row b').textContent === 'row-49975'")
        paged = time.monotonic() - begun
        heap = await browser.run("performance.memory.usedJSHeapSize")
        return ready / 1000, searched, paged, heap

    ready, searched, paged, heap = look(path.as_uri(), visit)
    print(
        f"made in {made:.1f} s, {result.size / 2**20:.1f} MiB; open {ready:.2f} s, search {searched:.2f} s, "
        f"page {paged:.2f} s, heap {heap / 2**20:.0f} MiB"
    )
    assert ready < 15 and searched < 20 and paged < 5
    assert heap < 400 * 2**20


ORIGIN = {
    "prompt": "support_messages_of_the_last_year.yaml", "prompt_hash": "0123456789abcdef", "answer": "text",
    "teachers": [
        {
            "teacher": "meta-llama/Llama-3.1-70B-Instruct", "model": "meta-llama/Llama-3.1-70B-Instruct",
            "date": "2026-03-01T00:00:00+00:00", "samples": 1,
            "settings": {"temperature": 0.0, "max_tokens": 256, "seed": 17}, "usage": [123_456, 7_890],
        }
    ],
}  # fmt: skip


def with_origins(tmp_path, rows):
    """The same rows as a file with provenance, a long label and two failures, one of them with a long reason."""
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for n, record in enumerate(rows):
            label = (
                "a label that is much longer than any label of a classification task should be"
                if n == 0
                else record.label
            )
            row = {
                "id": record.id, "input": record.input, "label": label, "rationales": list(record.rationales),
                "provenance": ORIGIN,
            }  # fmt: skip
            file.write(json.dumps(row | ({"llm_label": record.llm_label} if record.llm_label else {})) + "\n")
    with (tmp_path / "rows.failures.jsonl").open("w") as file:
        for n, reason in enumerate(["cut off", "the answer is none of the labels that the rows have " * 3]):
            file.write(json.dumps({"id": f"row-{n}", "reason": reason, "detail": "d", "raw": "r"}) + "\n")
    output = tmp_path / "report.html"
    inspect(InspectConfig(output=str(output), inputs=str(path), plan=Plan(inputs=60, targets=70)))
    return output


OUTSIDE = """[...document.querySelectorAll('main *')].filter(node => {
  const box = node.getBoundingClientRect();
  return box.width > 0 && !node.closest('.scroll') && !node.closest('svg') && box.right > innerWidth + 0.5;
}).map(node => node.tagName + '.' + node.className + '#' + node.id)"""
TILES = (
    "Object.values(Object.groupBy([...document.querySelectorAll('.tile')], t => t.offsetTop)).map(row => row.length)"
)


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_is_cut_off_or_stands_alone(tmp_path, width):
    path = with_origins(tmp_path, list(records(60)))

    async def visit(browser):
        await browser.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=4000, deviceScaleFactor=1, mobile=False
        )
        for view in ("rows", "failures"):
            await browser.run(f"document.querySelector('[data-view={view}]').click()")
            await browser.run("new Promise(done => setTimeout(done, 200))")
            assert await browser.run("document.documentElement.scrollWidth") <= width
            assert await browser.run(OUTSIDE) == []
        await browser.run("document.querySelector('[data-view=rows]').click()")
        cells = await browser.run(
            "[...document.querySelectorAll('.origins td')].map(td => [td.dataset.name, td.scrollWidth <= td.clientWidth])"
        )
        assert [name for name, _ in cells] == [
            "teacher", "model", "prompt", "settings", "rows", "tokens read / written", "dates"
        ] and all(fits for _, fits in cells)  # fmt: skip
        number = await browser.run("document.querySelectorAll('.tile').length")
        rows = await browser.run(TILES)
        assert sum(rows) == number
        if width == 1280:
            assert rows == {8: [4, 4], 9: [5, 4]}[number]
        picture = await browser.picture()
        (tmp_path / f"{width}.png").write_bytes(picture)

    look(path.as_uri(), visit)


def test_a_bar_is_as_wide_as_its_share(tmp_path):
    rows = [
        Record(id=f"r{n}", input=f"x {n}", label="a" if n else "b", rationales=(f"reason {n}",)) for n in range(125)
    ]
    path, _ = report(tmp_path, rows)

    async def visit(browser):
        widths = await browser.run(
            "[...document.querySelectorAll('section')][0].querySelector('table') && "
            "[...[...document.querySelectorAll('section')][0].querySelectorAll('.track')]"
            ".map(t => t.querySelector('i').getBoundingClientRect().width / (t.clientWidth - 12))"
        )
        assert widths == [pytest.approx(0.992, abs=0.02), pytest.approx(0.008, abs=0.02)]

    look(path.as_uri(), visit)
