"""Harmless tasks with many good answers: plans, letters, recipes. Each takes a `Draw` to (prompt, answer)."""

from __future__ import annotations

import words as w
from draw import Draw

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
    return prompt, d.answer(f'You could say: "Please, if you have a moment: {low}. Thank you very much!"', pool=pool)


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


def packing(d: Draw) -> tuple[str, str]:
    place = d.one(w.PLACES)
    things = d.some(w.THINGS, 3)
    prompt = d.rng.choice([f"What should I pack for {place}?", f"Write a packing list for a trip to {place}."])
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
