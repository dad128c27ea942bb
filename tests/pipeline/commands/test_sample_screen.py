from __future__ import annotations

import io

from rich.console import Console

from tamis.pipeline.commands.sample_screen import show_samples
from tamis.pipeline.planning.sampling import Sample


def printed(*samples: Sample) -> str:
    stream = io.StringIO()
    show_samples(Console(file=stream, width=160, emoji=False), samples)
    return stream.getvalue()


def sample(*pieces: tuple[str, str]) -> Sample:
    return Sample("a.jsonl", 3, ("user", "assistant"), 12, pieces)  # type: ignore[arg-type]


def test_answers_and_control_tokens_are_marked() -> None:
    said = printed(sample(("<|user|>", "control"), ("Hi\nthere", "text"), ("<|bot|>", "control"), ("Yes.", "scored")))
    head, *lines = said.splitlines()
    assert head.startswith("a.jsonl, row 3 (counted from 0), as it is rendered: user, assistant; 12 tokens; ")
    assert "  | [[<|user|>]]Hi\n  | there[[<|bot|>]]>>>Yes.<<<\n" in said
    assert len(lines) > 2


def test_no_text_can_look_like_ours_or_move_the_cursor() -> None:
    said = printed(sample(("\x1b[2J[bold]x[/] :smile:\r\nwarning: forged\n]] <<< \u202e", "text"), ("a>>>b", "scored")))
    assert "\x1b" not in said
    assert "\r" not in said
    assert r"\x1b[2J[bold]x[/] :smile:\r" in said
    assert "\n  | warning: forged\n" in said
    assert r"\]] \<<< \u202e>>>a\>>>b<<<" in said


def test_long_texts_are_cut_in_their_middle() -> None:
    said = printed(sample(("a" * 5000 + "END", "text")))
    assert "aaa ... (4,703 characters) ... aaa" in said
    assert "aEND" in said
    many = printed(sample(*[("x", "control")] * 500))
    assert "... (440 more pieces) ..." in many
    assert many.count("[[x]]") == 60
