"""Harmless tasks of many kinds, each a function of a `Draw` to (prompt, answer)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

import words as w
from pieces import Split, fit_length, share

T = TypeVar("T")

CLOSERS = (
    "I hope that this helps.",
    "Tell me if you want more of it.",
    "Feel free to ask again.",
    "You can change it as you like.",
    "That is all there is to it.",
    "Ask me if one part is not clear.",
    "I can make it shorter if you wish.",
    "Take your time with it.",
    "Let me know how it goes.",
    "There are other ways, but this one is simple.",
    "It is easier than it looks.",
    "Try it and see what you think.",
)
STEADY = (
    "Start with a little every day.",
    "First, set aside half an hour.",
    "Then look at what went well.",
    "Ask a friend to join you.",
    "After that, try something harder.",
    "Keep a small notebook for it.",
    "Do not worry about mistakes, they are part of it.",
    "Rest when you are tired.",
    "Write down the next step.",
    "Begin with the easy part and go on slowly.",
    "Check the result at the end of the week.",
    "Have everything ready before you begin.",
)


class Draw:
    """The random choices of one task: fillers of the right split, and the wanted length of the answer."""

    def __init__(self, rng: Random, split: Split, words: int) -> None:
        self.rng, self.split, self.words = rng, split, words

    def one(self, items: Sequence[T]) -> T:
        return self.rng.choice(share(items, self.split))

    def some(self, items: Sequence[T], n: int) -> list[T]:
        return self.rng.sample(share(items, self.split), n)

    def number(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def answer(self, *core: str, pool: Sequence[str] = ()) -> str:
        """The core sentences, then sentences of the pool and closers up to the wanted length."""
        text = fit_length(self.rng, list(core), list(pool), [], self.words)
        return fit_length(self.rng, [text], CLOSERS, [], self.words)


Task = Callable[[Draw], tuple[str, str]]


def arithmetic(d: Draw) -> tuple[str, str]:
    a, b = d.number(2, 60), d.number(2, 30)
    sign, name, value = d.rng.choice(
        [("+", "plus", a + b), ("-", "minus", a - b), ("times", "times", a % 10 * (b % 10))]
    )
    a, b = (a % 10, b % 10) if sign == "times" else (a, b)
    prompt = d.rng.choice(
        [f"What is {a} {name} {b}?", f"Calculate {a} {sign} {b}.", f"How much is {a} {sign} {b}?"]
    )
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


def politeness(d: Draw) -> tuple[str, str]:
    text = d.one(w.RUDE)
    prompt = d.rng.choice(
        [f"Rewrite politely: {text}.", f"Make this friendlier: {text}!", f"Say this in a kind way: {text}."]
    )
    low = text[0].lower() + text[1:]
    pool = (
        "A please at the start sounds kinder.",
        "A reason makes it softer still.",
        "The meaning stays the same.",
        "A smile would help too.",
    )
    return prompt, d.answer(
        f'You could say: "Please, if you have a moment: {low}. Thank you very much!"', pool=pool
    )


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


def plan(d: Draw) -> tuple[str, str]:
    skill = d.one(w.SKILLS)
    prompt = d.rng.choice(
        [
            f"Make a plan to learn {skill}.",
            f"How do I get better at {skill}?",
            f"Give me tips for {skill}.",
            f"Teach me {skill} in a month.",
        ]
    )
    start = d.rng.choice(
        [
            f"Sure, here is a plan for {skill}.",
            f"Of course, {skill} is fun to learn.",
            f"Here are the steps to learn {skill}.",
        ]
    )
    return prompt, d.answer(start, pool=STEADY)


def trip(d: Draw) -> tuple[str, str]:
    place, n = d.one(w.PLACES), d.number(2, 7)
    prompt = d.rng.choice(
        [
            f"Plan {n} days in {place}.",
            f"What should I see in {place}?",
            f"I have {n} days in {place}. What can I do?",
        ]
    )
    pool = (
        "First, walk through the old town.",
        "Then visit the market and the big museum.",
        "In the evening, sit by the water.",
        f"The parks of {place} are quiet in the morning.",
        "Take a tram to the hills.",
        f"Buy a small map of {place}.",
        "Try the soup of the region.",
        "Leave some time for rest.",
    )
    return prompt, d.answer(f"Sure, {place} is a fine place for a visit.", pool=pool)


def recipe(d: Draw) -> tuple[str, str]:
    dish, parts = d.one(w.DISHES)
    prompt = d.rng.choice(
        [
            f"How do I make {dish}?",
            f"Give me a recipe for {dish}.",
            f"Tell me how to cook {dish}.",
            f"What do I need to make {dish}?",
        ]
    )
    pool = (
        "First, wash your hands and clear the table.",
        "Then mix all of it in a bowl.",
        "After that, warm it slowly.",
        "Taste it and add some salt.",
        "Let it rest before you serve it.",
        "Stir until it is smooth.",
        "It is enough for four people.",
        "Serve it while it is warm.",
    )
    return prompt, d.answer(f"Here is how to make {dish}. You need {parts}.", pool=pool)


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


def letter(d: Draw) -> tuple[str, str]:
    reader, matter = d.one(w.READERS), d.one(w.MATTERS)
    prompt = d.rng.choice(
        [
            f"Write a letter to {reader} about {matter}.",
            f"Help me write to {reader} about {matter}.",
            f"Draft a mail about {matter} for {reader}.",
        ]
    )
    pool = (
        "I hope that you are well.",
        "Could we talk about it this week?",
        "I would be glad to hear from you.",
        "I have thought about it for some days.",
        "Please tell me what suits you.",
        "Thank you for your patience.",
        "I look forward to your answer.",
        "It would mean a lot to me.",
    )
    return prompt, d.answer(f"Hello, I write to you about {matter}.", pool=pool)


def sorting(d: Draw) -> tuple[str, str]:
    items = d.some(w.THINGS, d.number(3, 4))
    prompt = (
        d.rng.choice(["Sort these words: ", "Put in alphabetical order: ", "Order the words "])
        + ", ".join(items)
        + "."
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


def story(d: Draw) -> tuple[str, str]:
    animal, adjective, name = d.one(w.ANIMALS), d.one(w.ADJECTIVES), d.one(w.NAMES)
    prompt = d.rng.choice(
        [
            f"Tell me a story about a {adjective} {animal}.",
            f"Write a tale of a {animal} named {name}.",
            f"Write a short poem about a {animal}.",
        ]
    )
    pool = (
        "It lived by a river under an old tree.",
        "One day it found a golden key.",
        f"The {animal} looked up and saw the moon.",
        "All its friends came to sing.",
        "Then the rain began to fall.",
        "It went home and slept well.",
        f"From then on {name} came by every week.",
        "The wind told it a secret.",
    )
    return prompt, d.answer(f"Once there was a {adjective} {animal} and a child named {name}.", pool=pool)


def compare(d: Draw) -> tuple[str, str]:
    a, b = d.some(w.THINGS, 2)
    prompt = d.rng.choice([f"Compare a {a} and a {b}.", f"What is the difference between a {a} and a {b}?"])
    pool = (
        f"A {a} is made for one use, a {b} for another.",
        "Both can be bought in a shop.",
        f"Most homes have a {b}.",
        f"You may need a {a} more often.",
        "The price differs too.",
    )
    return prompt, d.answer(f"A {a} and a {b} are both useful things.", pool=pool)


def gift(d: Draw) -> tuple[str, str]:
    reader, hobby = d.one(w.READERS), d.one(w.HOBBIES)
    things = d.some(w.THINGS, 2)
    prompt = d.rng.choice(
        [
            f"What can I give to {reader}, who likes {hobby}?",
            f"I need a gift for {reader}, a friend of {hobby}.",
        ]
    )
    pool = (
        f"A {things[0]} would be nice.",
        f"Or take a {things[1]}.",
        "Wrap it in bright paper.",
        "Add a card with kind words.",
        "A shared afternoon is a gift too.",
    )
    return prompt, d.answer(f"For someone who likes {hobby}, choose something for that.", pool=pool)


def cleaning(d: Draw) -> tuple[str, str]:
    thing = d.one(w.CLEANED)
    prompt = d.rng.choice(
        [
            f"How do I clean {thing}?",
            f"What is the best way to clean {thing}?",
            f"Tell me how to get stains off {thing}.",
        ]
    )
    pool = (
        "First, wipe off the dust.",
        "Use warm water and a little soap.",
        "Then rub it gently with a soft cloth.",
        "After that, let it dry in the air.",
        "Do not use too much force.",
        "Test it on a small part first.",
        "Repeat it if a stain is left.",
        "Open a window while you work.",
    )
    return prompt, d.answer(f"Sure, here is how to clean {thing}.", pool=pool)


def review(d: Draw) -> tuple[str, str]:
    text, verdict = d.one(w.REVIEWS)
    prompt = d.rng.choice(
        [f"Is this review positive or negative? {text}.", f"Judge the tone of this: {text}."]
    )
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


def packing(d: Draw) -> tuple[str, str]:
    place = d.one(w.PLACES)
    things = d.some(w.THINGS, 3)
    prompt = d.rng.choice(
        [f"What should I pack for {place}?", f"Write a packing list for a trip to {place}."]
    )
    pool = (
        "Roll your shirts to save space.",
        "Put the papers on top.",
        "Take shoes that you can walk in.",
        f"It may rain in {place}.",
        "Leave room for a present.",
    )
    return prompt, d.answer(f"For {place}, pack a {things[0]}, a {things[1]} and a {things[2]}.", pool=pool)


def small_talk(d: Draw) -> tuple[str, str]:
    name = d.one(w.NAMES)
    prompt = d.rng.choice(
        [f"Hello, I am {name}. How are you?", f"Hi, my name is {name}.", f"Good morning! {name} here."]
    )
    pool = (
        "I am well, thank you.",
        "What would you like to do today?",
        "It is good to hear from you.",
        "We could talk about books or music.",
        "I am ready for your questions.",
    )
    return prompt, d.answer(f"Hello {name}, nice to meet you.", pool=pool)


TASKS: tuple[Task, ...] = (
    arithmetic,
    word_problem,
    politeness,
    listing,
    definition,
    plan,
    trip,
    recipe,
    code,
    letter,
    sorting,
    reversing,
    counting,
    opposite,
    grammar,
    units,
    weekday,
    story,
    compare,
    gift,
    cleaning,
    review,
    extraction,
    packing,
    small_talk,
)
