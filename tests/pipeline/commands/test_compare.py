"""`tamis compare`: its figures against ones counted row by row in plain Python, and what its page lets through."""

from __future__ import annotations

import hashlib
import json
import re
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled_runs import write_run
from typer.testing import CliRunner

from tamis.operators.conversation.dialects import Dialect
from tamis.pipeline.cli import app
from tamis.pipeline.commands.compare import MOST_SHOWN, MOST_SOURCES, Compared, compare, compared
from tamis.pipeline.commands.compare_page import MOST_CHARACTERS, page
from tamis.pipeline.commands.compare_screen import in_a_line
from tamis.pipeline.commands.compared_runs import Part, Run, bytes_a_row, match
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.inputs.sample_ids import sample_ids
from tamis.pipeline.run.paths import MANIFEST
from tamis.pipeline.storage.store import Store

COLUMNS = Dialect.of("pair", prompt="prompt", response="response").to_dict()
ROWS = 60
RNG = np.random.default_rng(11)
LENGTHS = RNG.integers(1, 30, ROWS).tolist()
LARF = np.round(RNG.normal(size=ROWS), 1).astype(np.float32).tolist()
SAFT = np.round(RNG.normal(size=ROWS), 1).astype(np.float32).tolist()
OUT, UNSCORED = 7, 40
SECRET = "zykliker"


def written(
    folder: Path,
    scores: Mapping[str, Sequence[float]],
    fell: Callable[[int], bool],
    rows: int = ROWS,
    by: str | None = None,
    text: Callable[[int], str] = lambda row: f"{SECRET} answer {row}",
    out: Sequence[int] = (OUT,),
    **facts: Any,
) -> Store:
    """A run over two files. fell: which rows it dropped. out: rows in quarantine."""
    store = Store(str(folder))
    parts = [{"prompt": f"question {row}", "response": text(row)} for row in range(rows)]
    files = {"a.jsonl": parts[:35], "b.jsonl": parts[35:]}
    kept = {
        name: [None if row in (*out, UNSCORED) else values[row] for row in range(rows)]
        for name, values in scores.items()
    }
    decisions = ["quarantined" if row in out else "dropped" if fell(row) else "kept" for row in range(rows)]
    entries = [{"path": name, "rows": len(each), "columns": COLUMNS} for name, each in files.items()]
    whole = {"selected_by": by or next(iter(scores)), "input": {"files": entries}}
    write_run(store, files, kept, decisions, LENGTHS[:rows], **whole | facts)
    return store


def falls_by(scores: Sequence[float], cut: float) -> Callable[[int], bool]:
    return lambda row: row != UNSCORED and scores[row] > cut


@pytest.fixture
def pair(tmp_path: Path) -> list[Store]:
    """One run by LARF, and its scores cut anew by SAFT."""
    both = {"larf": LARF, "saft": SAFT}
    return [
        written(tmp_path / "a", both, falls_by(LARF, 0.8)),
        written(tmp_path / "b", both, falls_by(SAFT, 0.5), by="saft", parent={"path": "a"}),
    ]


def figures(stores: Sequence[Store], **how: Any) -> dict[str, Any]:
    found = compare(stores, **how).figures
    return json.loads(json.dumps(found, allow_nan=False))  # type: ignore[no-any-return]


# --- the figures --------------------------------------------------------------------------------------------------


def naive_ranks(values: list[float]) -> list[float]:
    return [sum(o < v for o in values) + (sum(o == v for o in values) + 1) / 2 for v in values]


def naive_rho(a: list[float], b: list[float]) -> float:
    return float(np.corrcoef(naive_ranks(a), naive_ranks(b))[0, 1])


def test_every_figure_is_that_of_the_rows(pair: list[Store]) -> None:
    found = figures(pair)
    a = {row for row in range(ROWS) if row not in (OUT, UNSCORED) and LARF[row] > 0.8}
    b = {row for row in range(ROWS) if row not in (OUT, UNSCORED) and SAFT[row] > 0.5}
    assert found["rows"] == {"shared": ROWS, "in": {"A": ROWS, "B": ROWS}, "scored_in_all": ROWS - 2, "unproven": ROWS}
    [both] = found["pairs"]
    assert both["runs"] == ["A", "B"]
    assert (both["both"], both["only"]) == (len(a & b), [len(a - b), len(b - a)])
    assert both["jaccard"] == len(a & b) / len(a | b)
    assert both["both_by_chance"] == pytest.approx(len(a) * len(b) / ROWS)
    counted = {tuple(each["dropped_by"]): each["rows"] for each in found["patterns"]}
    assert counted == {
        ("A", "B"): len(a & b), ("A",): len(a - b), ("B",): len(b - a), (): ROWS - len(a | b)
    }  # fmt: skip
    scored = [row for row in range(ROWS) if row not in (OUT, UNSCORED)]
    larf, saft = ([values[row] for row in scored] for values in (LARF, SAFT))
    ranks = {(each["a"]["method"], each["b"]["method"]): each for each in found["ranks"]}
    assert set(ranks) == {(x, y) for x in ("larf", "saft") for y in ("larf", "saft")}
    assert ranks["larf", "larf"] == {
        "a": {"run": "A", "method": "larf"}, "b": {"run": "B", "method": "larf"},
        "same_method": True, "identical": True, "spearman": 1.0,
    }  # fmt: skip
    assert ranks["larf", "saft"]["spearman"] == pytest.approx(naive_rho(larf, saft), abs=1e-12)
    assert ranks["larf", "saft"]["identical"] is False
    # Shares, by file and by tenth.
    for source, rows in (("a.jsonl", range(35)), ("b.jsonl", range(35, ROWS))):
        [share] = [each for each in found["sources"] if each["source"] == source]
        assert share["rows"] == [sum(row != OUT for row in rows)] * 2
        assert share["dropped"] == [sum(row in each for row in rows) for each in (a, b)]
    assert sum(tenth["shared"] for tenth in found["length_deciles"]) == len(scored)
    for tenth in found["length_deciles"]:
        rows = [row for row in scored if tenth["low"] <= LENGTHS[row] <= tenth["high"]]
        assert tenth["shared"] == len(rows)
        assert tenth["rows"] == [len(rows)] * 2
        assert tenth["dropped"] == [sum(row in each for row in rows) for each in (a, b)]
    # What each drops alone, the riskiest first, ties in corpus order.
    ids = [*sample_ids("a.jsonl", 0, 35), *sample_ids("b.jsonl", 0, ROWS - 35)]
    for own, alone, scores in zip(found["alone"], (a - b, b - a), (LARF, SAFT), strict=True):
        assert own["rows"] == len(alone)
        order = sorted(alone, key=lambda row: (-scores[row], row))[:MOST_SHOWN]
        assert [each["sample_id"] for each in own["riskiest"]] == [ids[row] for row in order]
        assert [each["score"] for each in own["riskiest"]] == [scores[row] for row in order]
    assert found["runs"][1]["selected_from"] == "a"
    assert SECRET not in json.dumps(found)


def random_run(name: str, rng: np.random.Generator, ids: np.ndarray[Any, Any], methods: Sequence[str]) -> Run:
    rows = len(ids)
    scores = {each: np.round(rng.normal(size=rows), 1).astype(np.float32) for each in methods}
    decisions = rng.integers(0, 3, rows).astype(np.int8)
    for each in scores.values():
        each[decisions == 2] = np.nan
    return Run(
        name,
        Store(f"/nowhere/{name}"),
        {"selected_by": methods[0], "selection": {"how": "h", "cut": None}, "input": {"files": []}},
        tuple(methods),
        ids,
        decisions,
        rng.integers(0, 9, rows).astype(np.int32),
        rng.integers(0, 3, rows).astype(np.int32),
        ("x", "y", "z"),
        scores,
        (Part("x", 0, rows, None),) if rows else (),
    )


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 40), runs=st.integers(2, 4), shuffled=st.booleans())
def test_any_runs_in_any_order_of_rows(seed: int, rows: int, runs: int, shuffled: bool) -> None:
    """Against dictionaries from the sample id to what each run says of the row."""
    rng = np.random.default_rng(seed)
    everything = rng.choice(2**60, size=rows + 5, replace=False).astype(np.uint64)
    given_: list[Run] = []
    for name in "ABCD"[:runs]:
        ids = everything[: rows + rng.integers(0, 6)]
        given_.append(
            random_run(name, rng, rng.permutation(ids) if shuffled else ids, ["larf", "saft"][: 1 + seed % 2])
        )
    matched = match(given_, shared_only=True)
    found = compared(matched).figures
    by_id = [{int(i): place for place, i in enumerate(run.ids.tolist())} for run in given_]
    shared = [i for i in given_[0].ids.tolist() if all(i in each for each in by_id)]
    assert matched.shared == len(shared)
    fell = [{i for i in shared if run.decisions[at[i]] == 1} for run, at in zip(given_, by_id, strict=True)]
    for each in found["pairs"]:
        a, b = (fell["ABCD".index(name)] for name in each["runs"])
        assert (each["both"], each["only"]) == (len(a & b), [len(a - b), len(b - a)])
    for number, own in enumerate(found["alone"]):
        others = set().union(*(each for at, each in enumerate(fell) if at != number))
        assert own["rows"] == len(fell[number] - others)
        run, at = given_[number], by_id[number]
        for row in own["riskiest"]:
            key = int(row["sample_id"], 16)
            assert key in fell[number] - others
            assert row["score"] == run.scores[run.decided_by][at[key]]
            for other, there in row["elsewhere"].items():
                place = by_id["ABCD".index(other)][key]
                assert (
                    there["decision"]
                    == ("kept", "dropped", "quarantined")[given_["ABCD".index(other)].decisions[place]]
                )
    scored = [
        i for i in shared
        if all(not np.isnan(s[at[i]]) for run, at in zip(given_, by_id, strict=True) for s in run.scores.values())
    ]  # fmt: skip
    assert found["rows"]["scored_in_all"] == len(scored)
    for each in found["ranks"]:
        columns = []
        for side in ("a", "b"):
            number = "ABCD".index(each[side]["run"])
            values = given_[number].scores[each[side]["method"]]
            columns.append([float(values[by_id[number][i]]) for i in scored])
        if each["spearman"] is None:
            assert len(scored) < 2 or any(len(set(column)) == 1 for column in columns)
        else:
            assert each["spearman"] == pytest.approx(naive_rho(*columns), abs=1e-9)
    assert sum(each["shared"] for each in found["sources"]) == len(shared)
    for number in range(runs):
        assert sum(each["dropped"][number] for each in found["sources"]) == len(fell[number])


@pytest.mark.parametrize("methods", [["larf"], ["larf", "saft", "contrast", "matching", "compliance", "ranks"]])
@pytest.mark.parametrize("count", [2, 4])
def test_the_memory_of_a_row_is_bounded_as_stated(count: int, methods: list[str]) -> None:
    rows = 20_000
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 2**63, rows).astype(np.uint64)
    runs = [random_run(name, rng, rng.permutation(ids), methods) for name in "ABCD"[:count]]
    for run in runs:
        for scores in run.scores.values():
            np.nan_to_num(scores, copy=False)  # nearly all rows of a real run have scores
    # What was made before counts, too.
    held = sum(17 + 4 * len(run.methods) for run in runs)
    tracemalloc.start()
    compared(match(runs))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held + peak / rows <= bytes_a_row([len(methods)] * count)


def test_many_files_are_counted_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    ids = np.arange(400, dtype=np.uint64)
    runs = [random_run(name, rng, ids, ["larf"]) for name in "AB"]
    many = tuple(f"{number}.jsonl" for number in range(70))
    for run in runs:
        object.__setattr__(run, "source_names", many)
        object.__setattr__(run, "sources", (np.arange(400) % 70).astype(np.int32))
    found = compared(match(runs)).figures
    assert len(found["sources"]) == MOST_SOURCES
    assert found["other_sources"]["sources"] == 70 - MOST_SOURCES
    assert sum(each["shared"] for each in found["sources"]) + found["other_sources"]["shared"] == 400
    assert found["sources"][0]["shared"] >= found["sources"][-1]["shared"]


# --- which runs ---------------------------------------------------------------------------------------------------


def test_other_rows_are_refused_with_how_many_match(tmp_path: Path) -> None:
    a = written(tmp_path / "a", {"larf": LARF}, falls_by(LARF, 0.8))
    less = written(tmp_path / "b", {"larf": LARF}, falls_by(LARF, 0.5), rows=50)
    with pytest.raises(ConfigError, match=r"A has 60 rows, B has 50 rows, and 50 sample ids are in all of them"):
        compare([a, less])
    found = figures([a, less], shared_only=True)
    assert found["rows"]["shared"] == 50
    assert found["runs"][0]["rows"] == ROWS
    assert found["runs"][0]["dropped"] == sum(falls_by(LARF, 0.8)(row) and row != OUT for row in range(50))
    assert found["notes"][0] == "only the 50 rows that all runs have are compared"
    # Also the other way round: the first run lacks some.
    assert figures([less, a], shared_only=True)["rows"]["shared"] == 50


def test_nothing_in_common(tmp_path: Path) -> None:
    a = written(tmp_path / "a", {"larf": LARF}, falls_by(LARF, 0.8))
    b = Store(str(tmp_path / "b"))
    rows = [{"prompt": "p", "response": "r"}] * 4
    write_run(b, {"other.jsonl": rows}, {"larf": [0.1, 0.2, 0.9, 0.3]}, ["kept", "kept", "dropped", "kept"])
    with pytest.raises(ConfigError, match="of different corpora: A has 60 rows, B has 4 rows, and no sample id is in"):
        compare([a, b], shared_only=True)


def with_digests(store: Store, digest: Callable[[str, int], str]) -> None:
    """Let the tables of scores/ say which rows were scored, as a run does, and the manifest speak of these tables."""
    manifest = store.read_facts(MANIFEST)
    for file in manifest["files"]:
        if file["name"].startswith("scores/"):
            table = store.read_table(file["name"])
            key = digest(table.column("source")[0].as_py(), table.column("row")[0].as_py())
            made = store.write_table(file["name"], table.replace_schema_metadata({"tamis.input": key}))
            file.update(made.to_dict())
    store.write_facts(MANIFEST, manifest)


def test_the_same_ids_of_other_texts_are_another_corpus(pair: list[Store]) -> None:
    assert "of 60 of the shared rows nothing tells whether they hold the same text" in figures(pair)["notes"][0]
    for store in pair:
        with_digests(store, lambda source, row: f"{source} {row}")
    found = figures(pair)
    assert (found["rows"]["unproven"], found["notes"]) == (0, [])
    with_digests(pair[1], lambda source, row: f"{source} {row}{'!' * (source == 'b.jsonl' and row > 0)}")
    with pytest.raises(InputError, match=r"rows 13 to 24 of b\.jsonl hold other texts in .*/b than in .*/a"):
        compare(pair)


def test_a_file_that_was_not_touched_is_the_same_text(tmp_path: Path) -> None:
    entries = [
        {"path": name, "columns": COLUMNS, "url": f"/data/{name}", "bytes": 9, "identity": "1"}
        for name in ("a.jsonl", "b.jsonl")
    ]
    one = written(tmp_path / "a", {"larf": LARF}, falls_by(LARF, 0.8), input={"files": entries})
    other = written(tmp_path / "b", {"saft": SAFT}, falls_by(SAFT, 0.8), input={"files": entries})
    assert figures([one, other])["rows"]["unproven"] == 0
    touched = [{**entries[0], "identity": "2"}, entries[1]]
    later = written(tmp_path / "c", {"saft": SAFT}, falls_by(SAFT, 0.8), input={"files": touched})
    assert figures([one, other, later])["rows"]["unproven"] == 35


def test_damaged_runs_are_refused(pair: list[Store]) -> None:
    [name] = [each for each in pair[1].list("scores") if each.startswith("000001")]
    data = pair[1].read(f"scores/{name}")
    pair[1].write(f"scores/{name}", data[:-1] + b"x")
    with pytest.raises(InputError, match=r"000001-.*\.parquet: is not as it was written; put it back from a copy"):
        compare(pair)
    pair[1].write(f"scores/{name}", data)
    manifest = pair[1].read_facts(MANIFEST)
    pair[1].write_facts(MANIFEST, {**manifest, "counts": {**manifest["counts"], "dropped": 3}})
    with pytest.raises(InputError, match=r"it has \d+ rows dropped, its manifest 3"):
        compare(pair)
    pair[1].write(MANIFEST, pair[1].read(MANIFEST).replace(b"saft", b"tfas"))
    with pytest.raises(ConfigError):
        compare(pair)


def test_texts_that_are_damaged_are_found_for_the_page(pair: list[Store], tmp_path: Path) -> None:
    for name in pair[0].list("dropped"):
        pair[0].write(f"dropped/{name}", b"PAR1")
    ran = invoke(pair, "-o", tmp_path / "c")
    assert isinstance(ran.exception, InputError)
    assert not (tmp_path / "c").exists()


def test_runs_that_cannot_be_compared(pair: list[Store], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name two runs or more"):
        compare(pair[:1])
    with pytest.raises(ConfigError, match="is named twice"):
        compare([*pair, Store(pair[0].path() + "/")])
    with pytest.raises(ConfigError, match="no finished run here"):
        compare([pair[0], Store(str(tmp_path / "nothing"))])
    masked = Store(str(tmp_path / "masked"))
    masked.write_facts(MANIFEST, {"kind": "tokens", "complete": True, "fingerprint": {}, "counts": {}, "files": []})
    with pytest.raises(ConfigError, match="masked tokens; runs that score samples are compared"):
        compare([pair[0], masked])


# --- the page -----------------------------------------------------------------------------------------------------

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(1)> \u202e{{ 7 * 7 }} \x1b[2J"


class _Page(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def invoke(stores: Sequence[Store], *flags: object) -> Any:
    return CliRunner().invoke(app, ["compare", *(store.path() for store in stores), *map(str, flags)])


def test_the_page_shows_texts_and_runs_nothing(tmp_path: Path) -> None:
    both = {"larf": LARF, "saft": SAFT}
    text = lambda row: HOSTILE + "x" * 3000  # noqa: E731
    stores = [
        written(tmp_path / "a", both, falls_by(LARF, 0.8), text=text),
        written(tmp_path / "b</script>", both, falls_by(SAFT, 0.5), by="saft", text=text),
    ]
    ran = invoke(stores, "-o", tmp_path / "c")
    assert ran.exit_code == 0, ran.output
    page = (tmp_path / "c/compare.html").read_text(encoding="utf-8")
    tags = _Page(page).tags
    assert {tag for tag, _ in tags} <= {
        *(
            "html",
            "head",
            "meta",
            "title",
            "style",
            "body",
            "header",
            "main",
            "section",
            "footer",
            "p",
            "h1",
            "h2",
            "h3",
        ),
        *("div", "table", "thead", "tbody", "tr", "th", "td", "bdi", "br", "code", "details", "summary", "pre", "span"),
    }
    assert not {name for _, attrs in tags for name in attrs} & {"src", "href", "onerror", "onclick", "style"}
    [policy] = [attrs["content"] or "" for _, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    import base64

    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert "{{ 7 * 7 }}" in unescape(page)
    assert "more characters" in page
    assert max(map(len, re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL))) < 6 * MOST_CHARACTERS
    shown = json.loads((tmp_path / "c/compare.json").read_text())["alone"]
    assert page.count("<details ") == sum(len(own["riskiest"]) for own in shown)


def test_the_page_says_where_it_lists_the_most_frequent_combinations_only(pair: list[Store]) -> None:
    """Six runs have 64 combinations; all of them are listed."""
    found = compare(pair)
    known = found.figures
    for runs, patterns, cut in ((6, 64, False), (8, 63, False), (8, 64, True)):
        many = {"runs": (known["runs"] * 4)[:runs], "patterns": (known["patterns"] * 64)[:patterns]}
        made = page(known | many, found.alone, [{}, {}])
        assert ("the most frequent combinations" in made) == cut


def test_texts_are_in_the_page_alone(pair: list[Store], tmp_path: Path) -> None:
    ran = invoke(pair, "-o", tmp_path / "c", "--json")
    found = json.loads(ran.stdout)
    assert (found["page"], found["numbers"]) == (str(tmp_path / "c/compare.html"), str(tmp_path / "c/compare.json"))
    screen = invoke(pair)
    assert SECRET not in ran.output + screen.output + (tmp_path / "c/compare.json").read_text()
    page = (tmp_path / "c/compare.html").read_text(encoding="utf-8")
    # Each text under its own row's id.
    ids = [*sample_ids("a.jsonl", 0, 35), *sample_ids("b.jsonl", 0, ROWS - 35)]
    blocks = re.findall(r'<details id="[AB]-(\w+)">.*?<pre><bdi>(.*?)</bdi></pre>', page, re.DOTALL)
    assert blocks
    for sample_id, words in blocks:
        assert words.endswith(f"{SECRET} answer {ids.index(sample_id)}")
    assert in_a_line(found).startswith("60 rows: A and B both drop ")
    quiet = invoke(pair, "--quiet")
    assert quiet.stdout == in_a_line(found) + "\n"


def test_where_the_files_go(pair: list[Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(pair, "-o", "side.html").exit_code == 0
    assert invoke(pair, "-o", "deep/er/n.json").exit_code == 0
    assert {path.name for path in tmp_path.glob("side.*")} == {"side.html", "side.json"}
    assert [path.name for path in (tmp_path / "deep/er").iterdir()] == ["n.json"]
    before = (tmp_path / "side.html").read_text()
    again = invoke(pair, "-o", "side.html")
    assert isinstance(again.exception, ConfigError)
    assert "is there already; choose another place, or add --force" in str(again.exception)
    assert invoke(pair, "-o", "side.html", "--force").exit_code == 0
    assert (tmp_path / "side.html").read_text() == before  # the same runs give the same page
    inside = invoke(pair, "-o", pair[0].path("c"))
    assert "lies in the run" in str(inside.exception)


def test_nothing_alone_and_nothing_dropped(tmp_path: Path) -> None:
    stores = [written(tmp_path / name, {"larf": LARF}, lambda row: False, out=()) for name in "ab"]
    found: Compared = compare(stores)
    assert found.figures["pairs"][0]["jaccard"] is None
    assert found.alone == ((), ())
    assert invoke(stores, "-o", tmp_path / "c").exit_code == 0
    assert "Jaccard –" in in_a_line(found.figures)
