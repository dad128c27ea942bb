"""`tamis examples`: commands to copy, by what one wants to do. Tests read each of them with the real command line."""

from __future__ import annotations

from collections.abc import Iterator

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "Look at your data first": (
        ("Write a job file with comments for the data that lies there", "tamis init -i data/train.jsonl -m MODEL"),
        ("Say what would be done, with time and memory, and do nothing", "tamis plan job.yaml"),
        ("The same, showing five rows as the model will read them", "tamis plan job.yaml --show 5"),
        ("Is this machine ready, and the model?", "tamis doctor -m MODEL"),
    ),
    "Clean a corpus": (
        ("Run the job file", "tamis curate job.yaml"),
        ("Without a job file", "tamis curate -i data/train.jsonl -m MODEL --method contrast --drop 10% -o out"),
        ("Three scores from one pass of the model; the first one decides",
         "tamis curate -i data/train.jsonl -m MODEL --method contrast,larf,saft -o out"),
        ("A dataset of the Hugging Face hub",
         "tamis curate -i hf://datasets/ORG/NAME --set input.split=train -m MODEL --method contrast -o out"),
        ("A folder whose columns have names of their own",
         "tamis curate -i data/ --set 'input.columns={prompt: q, response: a}' -m MODEL --method contrast -o out"),
        ("On a Ray cluster, from and to an object store",
         "tamis curate --address auto -i s3://corpus/chat/ -m MODEL --method contrast -o s3://curated/chat"),
        ("Mask risky tokens instead of dropping samples",
         "tamis curate -i data/train.jsonl -m MODEL --method toss --set toss.utility_references=good.jsonl -o out"),
    ),
    "Look at a run": (
        ("How far is it? After Ctrl-C or a crash, the same curate command goes on", "tamis status out"),
        ("Are all files as they were written?", "tamis verify out"),
        ("For scripts: one JSON object on stdout", "tamis status out --json"),
    ),
    "Choose another cut, without the model": (
        ("Drop half as many", "tamis select out --drop 5% -o out-5"),
        ("By another method that was scored", "tamis select out --by saft -o out-saft"),
        ("As many rows by chance, for a comparison", "tamis select out --control random -o out-random"),
        ("What do the cuts share, and what does each drop alone?",
         "tamis compare out out-5 out-saft -o comparison"),
    ),
    "Find out whether a score is any good": (
        ("Draw rows for people to label", "tamis sample out --for-labels 400 -o sheet.csv"),
        ("Scores and decision against the labels", "tamis evaluate out --labels sheet.csv"),
        ("How much can be kept with proof that little of it is harmful?", "tamis certify out --labels sheet.csv"),
        ("Which method and block would do best (needs --set keep_captures=true)",
         "tamis tune out --labels sheet.csv"),
    ),
    "Go on from a run": (
        ("Write kept/ as a trainer reads it", "tamis export out --for trl -o for-trl"),
        ("Score new data at the same cut",
         "tamis curate --artifact out -i data/tonight.jsonl -m MODEL --method contrast -o out-tonight"),
        ("Which block should LARF read?", "tamis layers -m MODEL -o layers"),
    ),
}  # fmt: skip
"""What one wants to do -> (what a command does, the command). MODEL stands for a folder or a name on the hub."""


def lines() -> Iterator[str]:
    """All examples, for a terminal or to be piped: the commands alone are lines without #."""
    yield "# MODEL is a folder in transformers' format, or a name on the Hugging Face hub."
    for title, commands in EXAMPLES.items():
        yield ""
        yield f"# {title}"
        for what, command in commands:
            yield f"#   {what}"
            yield command
