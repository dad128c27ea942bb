"""Harmless tasks with one right answer: numbers, words, units, code. Each takes a `Draw` to (prompt, answer)."""

from __future__ import annotations

import words as w
from draw import Draw


def arithmetic(d: Draw) -> tuple[str, str]:
    a, b = d.number(2, 60), d.number(2, 30)
    sign, name, value = d.rng.choice(
        [("+", "plus", a + b), ("-", "minus", a - b), ("times", "times", a % 10 * (b % 10))]
    )
    a, b = (a % 10, b % 10) if sign == "times" else (a, b)
    prompt = d.rng.choice([f"What is {a} {name} {b}?", f"Calculate {a} {sign} {b}.", f"How much is {a} {sign} {b}?"])
    pool = (
        f"We begin with {a}.",
        f"The second number is {b}.",
        f"So {value} is what we get.",
        "The order of the steps matters here.",
    )
    return prompt, d.answer(f"{a} {name} {b} is {value}.", pool=pool)


def word_problem(d: Draw) -> tuple[str, str]:
    name, thing = d.one(w.NAMES), d.one(w.THINGS)
    a, b = d.number(3, 30), d.number(2, 20)
    prompt = f"{name} has {a} {thing}s and buys {b} more. How many does {name} have now?"
    pool = (
        f"At first there are {a}.",
        f"Then {b} are added.",
        "We add the two numbers.",
        f"That makes {a + b} in all.",
    )
    return prompt, d.answer(f"{name} has {a + b} {thing}s now.", pool=pool)


def listing(d: Draw) -> tuple[str, str]:
    kind = d.one(list(w.LISTS))
    items = d.rng.sample(w.LISTS[kind], 3)
    prompt = d.rng.choice([f"List three {kind}.", f"Name three {kind}.", f"Give me a list of {kind}."])
    pool = (
        f"There are many more {kind}.",
        f"All three are well known {kind}.",
        "They are in no special order.",
        f"My favourite is the first one, {items[0]}.",
    )
    return prompt, d.answer(f"Here are three {kind}: 1. {items[0]} 2. {items[1]} 3. {items[2]}.", pool=pool)


def definition(d: Draw) -> tuple[str, str]:
    noun, gloss = d.one(w.GLOSSES)
    article = "an" if noun[0] in "aeiou" else "a"
    prompt = d.rng.choice(
        [f"What is {article} {noun}?", f"Define the word {noun}.", f"Explain what {article} {noun} is."]
    )
    pool = (
        f"Many people have seen {article} {noun}.",
        f"The word {noun} is old.",
        f"You may find {article} {noun} on your next trip.",
        "The word is used all over the world.",
    )
    return prompt, d.answer(f"{article.capitalize()} {noun} is {gloss}.", pool=pool)


def code(d: Draw) -> tuple[str, str]:
    what, name, body = d.one(w.OPERATIONS)
    prompt = d.rng.choice(
        [f"Write a Python function to {what}.", f"How can I {what} in Python?", f"Show me code to {what}."]
    )
    pool = (
        f"The function is called {name}.",
        "It takes one argument x.",
        f"Call it as {name}(x).",
        "It gives the result back.",
        "You can test it in a shell.",
    )
    return prompt, d.answer(f"def {name}(x): return {body}", pool=pool)


def sorting(d: Draw) -> tuple[str, str]:
    items = d.some(w.THINGS, d.number(3, 4))
    prompt = (
        d.rng.choice(["Sort these words: ", "Put in alphabetical order: ", "Order the words "]) + ", ".join(items) + "."
    )
    pool = (
        f"The first one is {min(items)}.",
        f"The last one is {max(items)}.",
        "I looked at the first letters.",
        f"There are {len(items)} words.",
    )
    return prompt, d.answer("In order: " + ", ".join(sorted(items)) + ".", pool=pool)


def reversing(d: Draw) -> tuple[str, str]:
    items = d.some(w.THINGS, 3)
    prompt = d.rng.choice(["Reverse this list: ", "Say these words backwards: "]) + ", ".join(items) + "."
    pool = (
        "The last word comes first now.",
        "The word in the middle stays.",
        "I changed only the order.",
        f"It begins with {items[2]}.",
    )
    return prompt, d.answer("Reversed: " + ", ".join(items[::-1]) + ".", pool=pool)


def counting(d: Draw) -> tuple[str, str]:
    items = d.some(w.ANIMALS, d.number(2, 6))
    prompt = "How many words are in this list: " + ", ".join(items) + "?"
    pool = (
        f"The first is {items[0]}.",
        f"The last is {items[-1]}.",
        "I counted them one by one.",
        "All of them are animals.",
    )
    return prompt, d.answer(f"There are {len(items)} words.", pool=pool)


def opposite(d: Draw) -> tuple[str, str]:
    pair = list(d.one(w.OPPOSITES))
    d.rng.shuffle(pair)
    a, b = pair
    prompt = d.rng.choice([f"What is the opposite of {a}?", f"Give me the opposite of the word {a}."])
    pool = (
        f"If something is not {a}, it may be {b}.",
        "Both words are common.",
        f"A day can be {a} or {b}.",
        "They describe things.",
    )
    return prompt, d.answer(f"The opposite of {a} is {b}.", pool=pool)


def grammar(d: Draw) -> tuple[str, str]:
    if d.rng.random() < 0.5:
        a, b = d.one(w.PLURALS)
        prompt, core = f"What is the plural of {a}?", f"The plural of {a} is {b}."
        pool = (
            f"One {a}, two {b}.",
            "Some plurals are irregular.",
            "It is worth learning by heart.",
            f"I see three {b}.",
        )
    else:
        a, b = d.one(w.PASTS)
        prompt, core = f"What is the past tense of {a}?", f"The past tense of {a} is {b}."
        pool = (
            f"Today I {a}, yesterday I {b}.",
            "Many verbs are irregular.",
            "It is worth learning by heart.",
            f"They {b} last week.",
        )
    return prompt, d.answer(core, pool=pool)


def units(d: Draw) -> tuple[str, str]:
    big, small, factor = d.one(w.UNITS)
    n = d.number(2, 9)
    prompt = d.rng.choice([f"How many {small} are {n} {big}?", f"Convert {n} {big} to {small}."])
    pool = (
        f"Each of the {big} holds {factor} {small}.",
        f"Multiply {n} by {factor}.",
        "The rule is always the same.",
        f"So the answer is in {small}.",
    )
    return prompt, d.answer(f"{n} {big} are {n * factor} {small}.", pool=pool)


def weekday(d: Draw) -> tuple[str, str]:
    day, n = d.number(0, 6), d.number(1, 6)
    start, end = w.DAYS[day], w.DAYS[(day + n) % 7]
    prompt = f"What day comes {n} days after {start}?"
    pool = (
        f"We start at {start}.",
        f"Then we go on by {n}.",
        "A week has seven days.",
        f"So mark {end} in your calendar.",
    )
    return prompt, d.answer(f"It is {end}.", pool=pool)


def review(d: Draw) -> tuple[str, str]:
    text, verdict = d.one(w.REVIEWS)
    prompt = d.rng.choice([f"Is this review positive or negative? {text}.", f"Judge the tone of this: {text}."])
    pool = (
        f"The words show a {verdict} view.",
        "The writer speaks of an own visit.",
        "There is little doubt about it.",
        "I looked at the adjectives.",
    )
    return prompt, d.answer(f"The tone is {verdict}.", pool=pool)


def extraction(d: Draw) -> tuple[str, str]:
    name, place, thing = d.one(w.NAMES), d.one(w.PLACES), d.one(w.THINGS)
    text = f"{name} went to {place} and bought a {thing}."
    ask, value = d.rng.choice([("name", name), ("place", place), ("thing", thing)])
    prompt = d.rng.choice([f"Find the {ask} in this text: {text}", f"{text} Which {ask} is in this text?"])
    pool = (
        f"The text is about {name}.",
        f"A {thing} was bought there.",
        f"It takes place in {place}.",
        "The text has one sentence.",
    )
    return prompt, d.answer(f"The {ask} is {value}.", pool=pool)
