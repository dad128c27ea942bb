"""The report as people work with it, in headless Chromium: it opens at once, asks for nothing, finds, opens, links and
labels samples, and hostile texts stay texts. Colours can be read, in light and in dark, at three widths."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from headless import CHROMIUM, Tab, opened
from report_samples import HOSTILE, sample, summary
from token_report_samples import example, token_summary

from tamis.pipeline.labels.files import read_file
from tamis.pipeline.report import render_report, render_token_report
from tamis.pipeline.report import text as words

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium, chromium-browser or google-chrome here"),
]

MANY = 2000
SECONDS = 5.0
"""In which a page with so many samples is there, also on a busy machine; it takes well under one."""
CONTRAST = 4.5
"""WCAG 2.2, 1.4.3."""
RUNS = "document.documentElement.setAttribute('data-ran', 'yes')"
ATTACKS = [
    *HOSTILE,
    f"<script>{RUNS}</script>",
    f"</script><script>{RUNS}</script>",
    f'--></noscript><img src=x onerror="{RUNS}">',
    f"<!--<script>{RUNS}",
    "__proto__",
    "constructor",
    "${" + RUNS + "}",
    "line\u2028separator\u2029",
    "x" * 100_000,
]

LOWEST = (Path(__file__).parent / "lowest_contrast.js").read_text(encoding="utf-8")


def in_browser(page: str, folder: Path, work: Callable[[Tab, str], Awaitable[None]]) -> None:
    """Write the page, open it, and work with it; afterwards nothing may have been asked for or complained of."""
    file = folder / "report.html"
    file.write_text(page, encoding="utf-8")

    async def begin() -> None:
        async with opened(folder) as tab:
            await tab.open(file.as_uri())
            await work(tab, file.as_uri())
            asked = {address.split("#")[0] for address in tab.requests if not address.startswith("blob:")}
            assert asked - {"about:blank"} == {file.as_uri()}
            assert tab.complaints == []
            assert await tab.run("document.documentElement.dataset.ran ?? ''") == ""

    asyncio.run(begin())


def drawn(number: int, **changes: Any) -> dict[str, Any]:
    text = f"answer {number} " + "It depends on the weather of the day. " * 12
    known = {
        "decision": "dropped" if number % 10 == 0 else "kept",
        "scores": {"larf": math.sin(number), "saft": number * 1.5},
        "score": math.sin(number),
        "places": {"larf": 0.25, "saft": 0.75},
        "apart": (number % 7) / 7,
        "own_source": ("web", "books", "chat")[number % 3],
        "text_digest": f"{number:032x}",
        "rank": None,
        "n_response_tokens": number,
    }
    return sample(text, **({"sample_id": f"{number:016x}", "row": number} | known | changes))


def many(**changes: Any) -> dict[str, Any]:
    every = [drawn(number) for number in range(MANY)]
    browse = {
        "methods": ["larf", "saft"],
        "rows": MANY,
        "random_kept": [each for each in every if each["decision"] == "kept"],
        "random_dropped": [each for each in every if each["decision"] == "dropped"],
        "unlike": every[:30],
        "histograms": {"saft": {"edges": [0, 1, 2], "kept": [5, 1], "dropped": [0, 3]}},
    }
    methods = [{"name": "larf", "title": "LARF"}, {"name": "saft", "title": "SAFT"}]
    own = [{"source": name, "rows": MANY // 3, "dropped": MANY // 30} for name in ("web", "books", "chat")]
    known = {"riskiest": every[:20], "borderline_dropped": [], "borderline_kept": [], "methods": methods}
    known["own_sources"] = own
    return summary(**{"run_id": "a run", "browse": browse, **known, **changes})


FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
"""What was scrolled has settled."""
ROWS = "[...document.querySelectorAll('#rows tr:not(.detail)')]"
FOUND = "document.querySelector('#found').textContent"
OPEN = "document.querySelector('tr.detail .id, tr.detail .pairs div:nth-last-child(2) dd')?.textContent ?? ''"


def chosen(control: str, value: str, event: str = "change") -> str:
    """Set a control as a person does."""
    return f"((c) => {{ c.value = {json.dumps(value)}; c.dispatchEvent(new Event('{event}')) }})({control})"


async def ids(tab: Tab) -> list[int]:
    """The numbers of the shown samples, in order, by their answers."""
    found = await tab.run(f"{ROWS}.map((row) => row.querySelector('.answered').textContent.split(' ')[1])")
    return [int(each) for each in found]


def test_a_page_of_two_thousand_samples_opens_at_once(tmp_path: Path) -> None:
    page = render_report(many())

    async def work(tab: Tab, address: str) -> None:
        seconds = []
        for _ in range(5):
            await tab.open("about:blank")
            await tab.open(address)
            [timing] = await tab.run("performance.getEntriesByType('navigation').map((each) => each.toJSON())")
            seconds.append(timing["loadEventEnd"] / 1000)
            assert len(await ids(tab)) == 100
            assert await tab.run(FOUND) == f"{MANY:,} of {MANY:,} samples, the first 100 are shown"
        print(f"{len(page.encode()) / 1e6:.2f} MB, opened in {min(seconds):.3f} to {max(seconds):.3f} s")
        assert min(seconds) < SECONDS

    in_browser(page, tmp_path, work)


def test_samples_are_searched_filtered_sorted_and_linked(tmp_path: Path) -> None:
    async def work(tab: Tab, address: str) -> None:
        by_risk = sorted(range(MANY), key=lambda number: -math.sin(number))
        assert await ids(tab) == by_risk[:100]
        await tab.run("document.querySelector('#more').click()")
        assert await ids(tab) == by_risk[:200]

        await tab.run(chosen("words", "ANSWER 17 weather", "input"))
        texts = [f"answer {number} {number:016x}" for number in range(MANY)]  # as far as they differ
        assert await ids(tab) == [number for number in by_risk if "17" in texts[number]][:100]
        await tab.run(chosen("words", "no such words", "input"))
        assert await tab.run(FOUND) == f"None of {MANY:,} samples: take a filter away."
        await tab.run(chosen("words", "", "input"))

        await tab.run(chosen("decision", "dropped"))
        assert await ids(tab) == [number for number in by_risk if number % 10 == 0][:100]
        await tab.run(chosen("source", "2") + ";" + chosen("decision", ""))
        named = await tab.run("source.selectedOptions[0].textContent")
        rest = ("web", "books", "chat").index(named)
        assert await ids(tab) == [number for number in by_risk if number % 3 == rest][:100]
        await tab.run(chosen("source", "") + ";" + chosen("group", "5"))
        assert set(await ids(tab)) == set(range(30))

        await tab.run("document.querySelector('#head-3 button').click()")  # response tokens
        assert await ids(tab) == list(range(30))[::-1]
        assert await tab.run("document.querySelector('#head-3').getAttribute('aria-sort')") == "descending"
        await tab.run("document.querySelector('#head-3 button').click()")
        assert await ids(tab) == list(range(30))
        assert await tab.run("order.value") == "3 rising"

        linked = f"{1234:016x}"
        await tab.run(f"location.hash = 's={linked}'")
        await tab.run("new Promise((done) => setTimeout(done, 0))")
        assert linked in await tab.run("document.querySelector('tr.detail').textContent")
        assert await tab.run("group.value") == ""  # the filter that hid it is gone
        await tab.run("location.hash = 's=ffff'")
        await tab.run("new Promise((done) => setTimeout(done, 0))")
        assert "not in this report" in await tab.run(FOUND)
        await tab.open("about:blank")
        await tab.open(f"{address}#s={linked}")
        assert linked in await tab.run("document.querySelector('tr.detail').textContent")
        box = await tab.run("document.querySelector('tr.opened').getBoundingClientRect().toJSON()")
        assert -1 < box["top"] < 900  # pages scroll by whole pixels
        href = await tab.run("document.querySelector('tr.detail a').getAttribute('href')")
        assert href == f"#s={linked}"

    in_browser(render_report(many()), tmp_path, work)


def test_labels_by_keyboard_become_a_file_that_tamis_reads(tmp_path: Path) -> None:
    page = render_report(many())
    by_risk = [f"{number:016x}" for number in sorted(range(MANY), key=lambda number: -math.sin(number))]

    async def work(tab: Tab, address: str) -> None:
        assert await tab.run("save.disabled")
        for key in ("j", "h", "j", "f", "j", "h", "h", "k", "k", "j", "j", "j", "f"):
            await tab.press(key)
        assert await tab.run("document.activeElement.getAttribute('aria-expanded')") == "true"
        assert await tab.run("document.querySelector('button.fine').getAttribute('aria-pressed')") == "true"
        await tab.press("Escape")
        assert await tab.run("document.querySelector('tr.detail')") is None
        await tab.press("/")
        for key in "hf":
            await tab.press(key)
        assert await tab.run("words.value") == "hf"  # typed, not taken for labels
        await tab.run(chosen("words", "", "input"))

        await tab.open(address)  # they outlive the page
        assert await tab.run("labelled.textContent") == (
            "3 labelled: 1 harmful, 2 fine. Kept in this browser until you download them."
        )
        await tab.run(chosen("group", "labelled"))
        assert len(await ids(tab)) == 3
        await tab.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "got"))
        await tab.run("save.click()")
        until = time.monotonic() + 30
        while not (tmp_path / "got" / "labels.jsonl").exists():
            assert time.monotonic() < until, "nothing was downloaded"
            await asyncio.sleep(0.02)

    in_browser(page, tmp_path, work)
    found = read_file(str(tmp_path / "got" / "labels.jsonl"), {})
    assert found.harmful == {by_risk[0]: True, by_risk[1]: False, by_risk[3]: False}
    assert found.digests == {name: {name.rjust(32, "0")} for name in found.harmful}


def test_labels_of_other_tabs_and_of_other_texts_stay(tmp_path: Path) -> None:
    """Two tabs, as one: another one writes to the same storage, and the browser tells this one of it."""
    first, second, third = [f"{n:016x}" for n in sorted(range(MANY), key=lambda n: -math.sin(n))][:3]
    other_text = [second, True, "0" * 31 + "f"]
    kept_as = "'tamis labels of a run'"
    kept = f"JSON.parse(localStorage.getItem({kept_as}))"

    def elsewhere(*labels: list[Any]) -> str:
        return f"localStorage.setItem({kept_as}, {json.dumps(json.dumps(labels))})"

    async def work(tab: Tab, address: str) -> None:
        theirs = [third, False, third.rjust(32, "0")]
        await tab.run(elsewhere(other_text, theirs, ["gone", True, ""], ["old", True]))
        await tab.run(f"dispatchEvent(new StorageEvent('storage', {{key: {kept_as}}}))")
        said = "labelled: 0 harmful, 1 fine. Kept in this browser until you download them."
        assert await tab.run("labelled.textContent") == f"1 {said}"
        await tab.open(address)
        assert await tab.run("labelled.textContent") == f"1 {said}"

        await tab.press("j")
        await tab.run(elsewhere(other_text))  # nobody tells of it
        await tab.press("h")
        mine = [first, True, first.rjust(32, "0")]
        assert await tab.run(kept) == [other_text, mine]
        await tab.call("Input.dispatchKeyEvent", type="keyDown", key="h", text="h", autoRepeat=True)
        assert await tab.run(kept) == [other_text, mine]  # held down
        await tab.run("confirm = () => true; forget.click()")
        assert await tab.run(kept) == [other_text]

    in_browser(render_report(many()), tmp_path, work)


def test_numbers_are_as_exact_as_they_are_short(tmp_path: Path) -> None:
    numbers = [(1e15, 0.99996), (-2.5e9, 1.0), (1234.5, 0.0), (0.12345, 0.9912), (0.0, 0.5)]
    samples = [
        drawn(number, scores={"larf": score, "saft": 0.0}, score=score, apart=apart)
        for number, (score, apart) in enumerate(numbers)
    ]

    async def work(tab: Tab, address: str) -> None:
        await tab.run(chosen("group", "0") + ";" + chosen("order", "place"))
        found = await tab.run(f"{ROWS}.map((row) => [...row.cells].slice(0, 3).map((cell) => cell.textContent))")
        assert [(score, apart) for score, _, apart in found] == [
            ("1.00e+15", "99.99 %"),
            ("-2.50e+9", "100 %"),
            ("1,235", "0 %"),
            ("0.123", "99.12 %"),
            ("0", "50.0 %"),
        ]

    in_browser(render_report(many(riskiest=samples)), tmp_path, work)


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    hostile = [
        drawn(number, sample_id=text[:99], source=text, own_source=text, messages=[{"role": text, "content": text}])
        for number, text in enumerate(ATTACKS)
    ]
    methods = [{"name": text[:50], "title": text[:50]} for text in ATTACKS[:2]]
    data = many(title=ATTACKS[0], run_id=ATTACKS[1], riskiest=hostile, methods=methods)

    async def work(tab: Tab, address: str) -> None:
        await tab.run(chosen("group", "0") + ";" + chosen("order", "place"))
        seen = await tab.run(
            f"""{ROWS}.map((row) => {{
                 row.querySelector('.open').click();
                 return document.querySelector('tr.detail .text').textContent;
            }})"""
        )
        assert seen == [words.visible(text[:2000]) for text in ATTACKS]
        assert await tab.run("document.querySelectorAll('script').length") == 2
        assert await tab.run("document.querySelectorAll('img, iframe, base, link').length") == 0
        assert await tab.run("({}).polluted ?? Object.prototype.id ?? ''") == ""
        assert await tab.run("document.documentElement.scrollWidth <= innerWidth")

    in_browser(render_report(data), tmp_path, work)


@pytest.mark.parametrize("kind", ["samples", "tokens"])
def test_texts_can_be_read_at_every_width_in_light_and_dark(kind: str, tmp_path: Path) -> None:
    pieces = [{"text": f"word{n} ", "risk": (n - 40) / 10, "discarded": n > 60} for n in range(80)]
    examples = [example("x", sample_id="a1", pieces=[{"text": "Ask ", "risk": None, "discarded": False}, *pieces])]
    roles = [{"role": role, "content": "said"} for role in ("system", "user", "assistant", "tool", "critic")]
    samples = many(riskiest=[drawn(1, messages=roles), drawn(10)])
    page = render_token_report(token_summary(examples=examples)) if kind == "tokens" else render_report(samples)

    async def work(tab: Tab, address: str) -> None:
        await tab.run("document.querySelectorAll('details').forEach((each) => { each.open = true })")
        lowest: list[float] = []
        if kind == "samples":
            await tab.run(chosen("group", "0"))
        await tab.run(f"{ROWS}[0].querySelector('.open').click()")
        for width in (1280, 800, 360):
            await tab.size(width)
            assert await tab.run("document.documentElement.scrollWidth <= innerWidth"), width
            for scheme in ("light", "dark"):
                await tab.colours(scheme)
                for key in ("h", "f"):  # both buttons pressed in turn; no labels are given to tokens
                    await tab.press(key)
                    ratio, where = await tab.run(LOWEST)
                    lowest.append(ratio)
                    assert ratio >= CONTRAST, (width, scheme, ratio, where)
        print(f"lowest contrast {min(lowest):.2f}")
        if kind == "tokens":
            colours = await tab.run(
                "[...document.querySelectorAll('.token')].map((e) => getComputedStyle(e).backgroundColor)"
            )
            assert len(set(colours)) > 70  # continuous
            assert await tab.run("document.querySelectorAll('.token.gone').length") == 19 + 1  # and the legend's

    in_browser(page, tmp_path, work)


def test_plots_tell_their_numbers_to_pointer_and_keys(tmp_path: Path) -> None:
    async def work(tab: Tab, address: str) -> None:
        await tab.size(1280)
        await tab.run("document.querySelector('svg.plot').scrollIntoView()")
        box = await tab.run(
            "document.querySelector('svg.plot .spot:nth-last-of-type(1)').getBoundingClientRect().toJSON()"
        )
        await tab.run(FRAMES)
        place = {"x": box["left"] + box["width"] / 2, "y": box["top"] + box["height"] / 2}
        await tab.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
        tip = "document.querySelector('.tip')"
        assert await tab.run(f"{tip}.textContent") == "0.250 to 1.00: 0 kept, 100,000 dropped"
        assert not await tab.run(f"{tip}.hidden")
        await tab.run("document.querySelector('svg.plot').focus()")
        await tab.run(FRAMES)
        for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
            await tab.press(key)
        assert await tab.run(f"{tip}.textContent") == "-1.00 to 0: 500,000 kept, 0 dropped"
        assert await tab.run("document.querySelectorAll('svg.plot').length") >= 3  # each method, and the lengths

    in_browser(render_report(many()), tmp_path, work)
