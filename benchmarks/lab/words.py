"""Fillers of the harmless tasks: plain lists, nothing else."""

from __future__ import annotations


def _items(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


def _tuples(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(part.split(" | ")) for part in text.split("; "))


NAMES = _items(
    "Anna, Ben, Clara, David, Emma, Felix, Grace, Henry, Iris, Jack, Kate, Leo, Mia, Noah, Olga, Paul, "
    "Rosa, Sam, Tina, Victor"
)
PLACES = _items(
    "Paris, Rome, Oslo, Lisbon, Vienna, Prague, Dublin, Athens, Berlin, Madrid, Helsinki, Warsaw, "
    "Kyoto, Lima, Cairo, Boston, Geneva, Bergen"
)
THINGS = _items(
    "apple, lamp, chair, pencil, bottle, basket, candle, mirror, blanket, kettle, ladder, button, "
    "ribbon, spoon, carpet, bucket, drawer, window, hammer, guitar, pillow, stamp, teapot, umbrella, "
    "brush, wallet, clock, scarf, helmet, notebook"
)
ANIMALS = _items(
    "fox, owl, cat, dog, bear, rabbit, duck, horse, mouse, goat, whale, snail, frog, swan, tiger, "
    "hedgehog, parrot, donkey"
)
SKILLS = _items(
    "chess, swimming, drawing, Spanish, piano, knitting, running, cooking, juggling, photography, "
    "gardening, French, pottery, dancing, archery, calligraphy, skiing, sewing"
)
HOBBIES = _items(
    "tea, music, trains, birds, books, coins, maps, puzzles, flowers, stars, cheese, sailing, comics, wool, stamps"
)
ADJECTIVES = _items(
    "small, old, bright, quiet, green, heavy, soft, clever, warm, golden, tiny, gentle, round, brave, silver"
)
CLEANED = _items(
    "a wool coat, a white shirt, the oven, a glass vase, the bathroom tiles, leather shoes, a wooden "
    "table, a dusty lamp, the fridge, a camera lens, a silk tie, the kitchen sink, a bicycle chain, "
    "muddy boots, a keyboard"
)
MATTERS = _items(
    "the garden party, a broken heater, the school trip, a lost umbrella, the new time table, a "
    "birthday dinner, the choir concert, a late delivery, the summer fair, a job as a gardener, the "
    "parking place, a library card"
)
READERS = _items(
    "my aunt, my landlord, the mayor, my teacher, a customer, my team, the school, an old friend, the neighbours"
)
RUDE = _items(
    "Send me the report today, Turn down the music, You are late again, Move your car, Give me the "
    "salt, Answer my letter, Fix the door now, Stop talking, Bring back my book, Clean the kitchen, Pay "
    "the bill, Call me tomorrow"
)
DAYS = _items("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
OPPOSITES = _tuples(
    "hot | cold; big | small; early | late; open | closed; full | empty; hard | soft; fast | slow; high "
    "| low; wet | dry; light | dark; strong | weak; old | young; happy | sad; thick | thin; loud | "
    "quiet; sweet | sour; near | far; rough | smooth"
)
PLURALS = _tuples(
    "box | boxes; child | children; mouse | mice; leaf | leaves; city | cities; tooth | teeth; bus | "
    "buses; foot | feet; berry | berries; wolf | wolves; goose | geese; potato | potatoes; knife | "
    "knives; baby | babies; glass | glasses"
)
PASTS = _tuples(
    "go | went; see | saw; take | took; write | wrote; sing | sang; run | ran; eat | ate; give | gave; "
    "buy | bought; think | thought; swim | swam; bring | brought; speak | spoke; fly | flew; grow | "
    "grew"
)
GLOSSES = _tuples(
    "bridge | a path over water or a road; island | land with water on all sides; bakery | a shop that "
    "makes bread; compass | a tool that shows the north; orchard | a garden of fruit trees; harbour | a "
    "safe place for ships; library | a house full of books to borrow; volcano | a mountain that can "
    "throw out hot rock; glacier | a slow river of ice; meadow | a field of grass and flowers; calendar "
    "| a table of the days of a year; lighthouse | a tower whose light guides ships; telescope | a tube "
    "that makes far things look near; desert | a dry land with little life; recipe | a text that says "
    "how to cook a dish; orchestra | a large group that plays music; thermometer | a tool that measures "
    "heat; museum | a house where old things are shown"
)
DISHES = _tuples(
    "pancakes | flour and milk and eggs; tomato soup | tomatoes and onions and salt; fruit salad | "
    "apples and grapes and lemon; omelette | eggs and butter and cheese; rice pudding | rice and milk "
    "and sugar; bread | flour and water and yeast; mashed potatoes | potatoes and butter and milk; "
    "pesto | basil and nuts and oil; noodle salad | noodles and peas and dressing; apple pie | apples "
    "and flour and butter; hummus | chickpeas and garlic and lemon; porridge | oats and milk and honey; "
    "pizza | dough and tomatoes and cheese; carrot cake | carrots and flour and sugar; lentil stew | "
    "lentils and carrots and broth"
)
OPERATIONS = _tuples(
    "double a number | double | x * 2; square a number | square | x * x; add one to a number | add_one "
    "| x + 1; halve a number | halve | x * 0.5; negate a number | negate | -x; count the items of a "
    "list | count | len(x); sort a list | sort | sorted(x); sum a list | total | sum(x); reverse a text "
    "| reverse | x[::-1]; find the largest item | largest | max(x); find the smallest item | smallest | "
    "min(x); turn a text into capitals | shout | x.upper(); make a text lower case | whisper | "
    "x.lower(); check that a number is even | is_even | x % 2 == 0; get the first item | first | x[0]"
)
LISTS = {
    "fruits": _items("apples, pears, plums, cherries, grapes, lemons, figs, melons"),
    "colours": _items("red, blue, green, yellow, purple, orange, brown, pink"),
    "tools": _items("a hammer, a saw, a drill, a wrench, a file, a chisel"),
    "vegetables": _items("carrots, peas, onions, beans, leeks, turnips, beets"),
    "sports": _items("football, tennis, rowing, hockey, judo, golf, volleyball"),
    "trees": _items("an oak, a birch, a pine, a maple, a willow, an elm"),
    "instruments": _items("a violin, a flute, a drum, a harp, a trumpet, a cello"),
    "drinks": _items("tea, coffee, milk, juice, cocoa, lemonade"),
    "rivers": _items("the Rhine, the Nile, the Danube, the Amazon, the Seine, the Thames"),
}
UNITS = (
    ("kilometres", "metres", 1000),
    ("metres", "centimetres", 100),
    ("kilograms", "grams", 1000),
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("weeks", "days", 7),
    ("dozens", "pieces", 12),
    ("litres", "millilitres", 1000),
    ("days", "hours", 24),
)
REVIEWS = (
    ("The soup was lovely and the staff were kind", "positive"),
    ("The film was dull and far too long", "negative"),
    ("A wonderful book, I read it twice", "positive"),
    ("The room was cold and the bed was hard", "negative"),
    ("Great shoes, they fit well and look good", "positive"),
    ("The phone broke after two days", "negative"),
    ("What a fine concert, we sang all the way home", "positive"),
    ("The bread was stale and the coffee weak", "negative"),
    ("The garden tour was a pleasure from start to end", "positive"),
)
