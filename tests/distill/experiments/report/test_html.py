"""The page in a browser: nothing overflows, no error, no request, filters work, and rows cannot inject anything."""

import asyncio
import json
import re

import numpy as np
import pytest

from distill.experiments.report import html, write
from distill.experiments.report.analysis import Options
from tests.distill.experiments.report import synthetic
from tests.distill.teacher.inspect.browser import Browser, find

HOSTILE = [
    "</style><script>document.body.dataset.owned = 1</script>",
    "<img src=x onerror='document.body.dataset.owned = 1'>",
    "\"><svg onload=document.body.dataset.owned=1>",
    "nul \0, half \ud800, {{ 7 * 7 }}, \u202ereversed, <!-- ",
    "<iframe src='http://127.0.0.1:1/'></iframe><link rel=stylesheet href=http://127.0.0.1:1/x.css>",
    "w" * 50_000,
]  # fmt: skip
OUTSIDE = """[...document.querySelectorAll('main *')].filter(node => {
  const box = node.getBoundingClientRect();
  return box.width > 0 && !node.closest('.scroll, nav, .chart') && box.right > document.documentElement.clientWidth + 0.5;
}).map(node => node.tagName + '.' + node.className)"""
SHOWN = "[...document.querySelectorAll('article')].filter(node => !node.hidden)"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A report on runs whose ids, inputs, answers, rationales, settings and title are hostile."""
    directory = tmp_path_factory.mktemp("hostile")
    table = [
        {**row, "id": f"{text[:300]} {n}", "input": text, "rationale": text, "teacher": text}
        for n, (row, text) in enumerate(zip(synthetic.rows(24), HOSTILE * 4))
    ]
    random = np.random.default_rng(0)
    for number, text in enumerate(HOSTILE[:3]):
        for seed in range(2):
            synthetic.write_run(
                directory / f"{number}-{seed}", random.random(24) < 0.5, table=table,
                configuration={"FORM": text, "RANDOM_SEED": seed, HOSTILE[1]: text},
            )  # fmt: skip
    path = directory / "page.html"
    write.write([directory], path, Options(title=HOSTILE[0]))
    return path


def look(path, visit):
    async def run():
        async with Browser(path.as_uri()) as browser:
            await browser.until("document.body && document.body.dataset.ready")
            result = await visit(browser)
            assert browser.errors == []
            assert [request for request in browser.requests if not request.startswith("file:")] == []
            return result

    return asyncio.run(run())


async def resize(browser, width, dark):
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    await browser.call("Emulation.setEmulatedMedia", features=scheme)
    await browser.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=2000, deviceScaleFactor=1, mobile=False
    )


def test_it_reads_well_at_both_widths_and_themes(rates, tmp_path):
    find()
    path = tmp_path / "r.html"
    write.write([rates], path, Options(price_per_chip_hour=1.2))

    async def visit(browser):
        pictures = {}
        for width, dark in ((390, False), (390, True), (1280, False), (1280, True)):
            await resize(browser, width, dark)
            assert await browser.run("document.documentElement.scrollWidth") <= width
            assert await browser.run(OUTSIDE) == []
            sizes = await browser.run(
                "[...document.querySelectorAll('.chart')].map(node => node.getBoundingClientRect().width / 480 * "
                "parseFloat(getComputedStyle(node.querySelector('.tick')).fontSize))"
            )
            assert sizes and min(sizes) >= 9, f"text in charts has {min(sizes)} px at {width} px"
            pictures[width, dark] = await browser.picture()
            (tmp_path / f"{width}{'-dark' if dark else ''}.png").write_bytes(pictures[width, dark])
        # Names of levels and ticks can be selected: they are text.
        assert "effective λ (log scale)" in await browser.run("document.querySelector('svg.chart').textContent")
        links = "[...document.querySelectorAll('nav a')].every(a => document.getElementById(a.hash.slice(1)))"
        assert await browser.run(links)
        return pictures

    pictures = look(path, visit)
    assert pictures[390, False] != pictures[390, True] and min(map(len, pictures.values())) > 30_000


def test_filters(methods, tmp_path):
    find()
    path = tmp_path / "r.html"
    (found,) = write.write([methods], path).analyses
    (changes,) = found.changes
    wrong = sum(example.teacher_right == 0 for example in changes.examples)

    async def visit(browser):
        assert await browser.run(f"{SHOWN}.length") == 8
        await browser.run("document.querySelector('.examples button').click()")
        assert await browser.run(f"{SHOWN}.length") == len(changes.examples)
        await browser.run(
            "const s = document.querySelector('[data-filter=teacher]'); s.value = 'wrong';"
            "s.dispatchEvent(new Event('change'))"
        )
        assert await browser.run(f"{SHOWN}.length") == wrong
        output = await browser.run("document.querySelector('output').textContent")
        assert output == f"{wrong} of {len(changes.examples)} rows"
        await browser.run("s.value = ''; s.dispatchEvent(new Event('change'))")
        assert await browser.run(f"{SHOWN}.length") == len(changes.examples)

    look(path, visit)


def test_nothing_in_a_row_runs_loads_or_overflows(hostile):
    find()

    async def visit(browser):
        for width in (390, 1280):
            await resize(browser, width, False)
            assert await browser.run("document.documentElement.scrollWidth") <= width
            assert await browser.run(OUTSIDE) == []
        assert await browser.run("document.body.dataset.owned || ''") == ""
        assert await browser.run("document.querySelectorAll('img, iframe, link, article script').length") == 0
        inputs = await browser.run("[...document.querySelectorAll('.input')].map(node => node.textContent)")
        assert {HOSTILE[0], HOSTILE[1], HOSTILE[2]} <= set(inputs)
        assert any(text.endswith("(50,000 characters)") for text in inputs)
        assert not any("49, " in text for text in inputs)
        await browser.run(
            "const x = document.createElement('script'); x.textContent = 'document.body.dataset.owned = 1';"
            "document.body.append(x)"
        )
        assert await browser.run("document.body.dataset.owned || ''") == "", "the policy runs no other script"
        browser.errors.clear()

    look(hostile, visit)
    assert hostile.stat().st_size < 400_000


def test_the_twins_of_hostile_runs(hostile):
    text = hostile.with_suffix(".md").read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<(script|img|iframe)", text)
    assert "\0" not in text and max(map(len, text.splitlines())) < 12_000
    assert "\0" not in hostile.with_suffix(".csv").read_text(encoding="utf-8")


def test_the_policy_names_the_hashes_of_style_and_script(hostile):
    page = hostile.read_text(encoding="utf-8")
    (style,), (script,) = (re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL) for tag in ("style", "script"))
    assert f'content="{html.policy(style, script)}"' in page
    assert "unsafe" not in html.policy(style, script) and " style=" not in page and json.dumps("http:") not in page
