"""The word lists and sentence patterns of which the prose of the invented web is made; all of them our own.

A pattern's slots are names of word lists, or of what `World.sentence` fills: a number, a year, a name of the world.
"""

WORDS = {
    "adj": "old small bright quiet busy green narrow wide gentle proud friendly wooden stone lively famous hidden windy "
    "sunny rough clean simple careful cheerful patient curious steady warm cool broad steep round heavy light",
    "thing": "lamp basket boat rope shell kettle blanket bell ladder lantern map drum ribbon candle hammer barrel wheel "
    "clock mirror chair table cart net oar sail kite book letter coin ring spoon bowl cup brush box",
    "place": "market harbour mill school library bakery orchard square bridge tower garden workshop inn lighthouse "
    "meadow forest beach cave field pond chapel museum station theatre",
    "food": "bread soup cheese honey apples plums barley beans fish mushrooms pancakes cake cabbage nuts butter tea jam "
    "porridge onions carrots pears berries eggs",
    "work": "baker fisher weaver carpenter teacher gardener sailor painter miller doctor farmer singer potter smith "
    "shepherd writer cook beekeeper builder clockmaker tailor cobbler barber mason brewer hunter merchant porter tanner "
    "glazier saddler printer dyer cooper thatcher nurse judge clerk dancer drummer",
    "feeling": "happy tired proud surprised worried calm excited glad nervous hopeful grateful thoughtful",
    "time": "In the morning|After lunch|On market days|In the early spring|Late in summer|Every autumn|On cold winter days|"
    "Before sunrise|At the end of the week|Long ago|Once a year|When the rain stops|In the evening|Some years later",
    "weather": "rain wind fog sunshine snow frost thunder mist",
    "verb": "carried painted repaired carved watched found sold bought cleaned counted collected borrowed remembered "
    "described opened moved measured polished",
    "plant": "oak birch willow rose clover heather fern ivy lavender thistle barley mint moss pine",
    "animal_common": "goat horse dog cat hen duck sheep donkey goose cow rabbit owl",
    "material": "oak wood|clay|wool|copper|stone|glass|leather|linen|straw|iron",
}
CHOICES = {slot: text.split("|") if "|" in text else text.split() for slot, text in WORDS.items()}

SENTENCES = {
    "town": """The streets of {town} are {adj}, and most houses are built of {material}.
{time} the {place} of {town} is full of people who sell {food} and {food}.
Visitors who come to {town} like to walk from the {place} to the {adj} {place}.
The oldest {place} in {town} has {num} steps, and children love to count them.
A {adj} road leads from {town} to {town2}, and it passes a {place} with {num} {plant} trees.
Many families in {town} have kept {animal_common}s for longer than anyone can remember.
The people of {town} say that the {weather} there is stronger than in {town2}.
{time} a {work} from {town} opens the {place} and lights a {thing}.
About {num} boats bring {food} to {town} when the sea is calm.
There is a {adj} {place} behind the {place}, where the {work}s of {town} meet and talk.
Travellers write that {town} smells of {food} and fresh {plant}.
In {year} the {place} was damaged by {weather}, and it was the {work}s who repaired it.
Those who look for a {adj} {thing} will find the best ones in {town}.
It takes {num} minutes to walk from one end of {town} to the other, if one does not stop at the {place}.
{town} and {town2} have shared a {place} since {year}, although they do not always agree about it.""",
    "person": """{person} was a {adj} child who liked the {place} more than the {place}.
At the age of {num} {person} learned the trade of a {work} from {person2}.
Friends remember that {person} always carried a {adj} {thing} and a piece of {food}.
{time} {person} walked to {town} to visit {person2} and to buy {food}.
The letters of {person} tell of {weather}, of {adj} work and of a {adj} {animal_common} that slept near the door.
In {year} {person} built a {thing} of {material}, which can still be seen in the {place}.
People in {town} say that {person} was never {feeling} for long.
{person} had {num} pupils, and most of them became {work}s.
For many years {person} and {person2} worked together in a {adj} {place}.
When {person} grew old, the {work}s of {town} gave a dinner with {food} and {food}.
The {adj} {thing} in the window once belonged to {person}.
It is said that {person} could tell the weather from the sound of a {thing}.""",
    "nature": """{time} the {animal} leaves the {place} and looks for water.
The young of the {animal} can walk after {num} days, and they stay with their mother until autumn.
Farmers near {town} do not fear the {animal}, because it never touches their {food}.
In the shade of the {plant} one can hear the {animal} long before one sees it.
The {plant} grows well where the ground is {adj} and the {weather} is not too strong.
A grown {animal} is about as heavy as a {thing} filled with {food}.
Children are told to stay {adj} and still when they meet the {animal} in the {place}.
In {year} people counted {num} of them in the hills above {town}.
Where the {plant} and the {plant} grow side by side, the ground is rich and dark.
Nobody has seen the {animal} swim, but it has been found on {adj} islands near {town}.
After heavy {weather} the {animal} hides under stones and waits for the sun.
The nest is made of {plant} and old {material}, and it is warm even in winter.""",
    "trade": """A {work} needs a {adj} {thing}, a good eye and a lot of time.
First the {work} chooses the {material}, and then it is washed and dried for {num} days.
The best {thing}s are made of {material}, because it is {adj} and lasts for years.
{time} the {work}s of {town} bring their {thing}s to the {place}.
To make a {thing} one must be {adj}, since a small mistake cannot be repaired.
Most {work}s learn their trade for {num} months before they work alone.
A {thing} of {material} costs as much as {num} loaves of bread.
The price of {food} went up in {year}, but the {work}s did not complain.
It is an old custom that the youngest {work} cleans the {place} and feeds the {animal_common}.
Good tools hang on the wall, and next to them there is a {adj} {thing} for luck.
The {work} and the {work} share one {place}, and they share the {food} as well.
People come from {town} and {town2} to buy a {thing} here.""",
    "story": """{time} {person} found a {adj} {thing} under the {place}.
"Have you seen my {thing}?" asked {person}, and nobody knew what to say.
"It must be near the {place}," said {person2} with a {adj} smile.
{person} was {feeling}, but {person2} was even more {feeling}.
They walked through the {weather} until they came to a {adj} {place}.
An old {work} gave them {food} and told them about the road to {town}.
"We should wait until the {weather} is over," whispered {person2}.
Suddenly a {animal_common} ran across the {place} with the {thing} in its mouth.
{person} {verb} the {thing} and put it carefully into a {adj} box.
Nobody in {town} had ever heard such a {adj} sound.
"I will give you {num} coins for that {thing}," said the {work}.
That night {person} dreamed of a {adj} {place} far away from {town}.
In the end the two friends shared the {food} and went home {feeling}.
The {thing} was never found again, and some people still look for it.
"You were right," said {person}, "the {work} did not have the {thing}."
They laughed so loudly that the {animal_common} woke up and the {work} opened the window.""",
    "forum": """I have tried to repair my {thing} for {num} days, and I do not know what to do.
Does anyone know a {work} in {town} who works with {material}?
My neighbour says that {food} helps, but I think that is not true.
You should ask at the {place}, because they have {adj} {thing}s there.
Thank you for the answer, I will go to {town} and try it.
I had the same problem last year, and a {adj} {thing} was all that I needed.
In my opinion the {place} in {town2} is better than the one in {town}.
Please be {adj} with the {material}, since it breaks when the {weather} comes.
We have kept {animal_common}s for {num} years and they like {food} more than anything else.
Has anybody been to the {place} since they opened it again?
I bought mine from a {work} for {num} coins, and I am {feeling} with it.
That is a good idea, and I would add some {plant} to it.""",
    "recipe": """Wash the {food} and cut the {food} into small pieces.
Put {num} spoons of butter into a warm pan and wait until it is soft.
Add the {food} and stir it with a wooden spoon for {num} minutes.
Some cooks in {town} use {food} instead, and that is good too.
Let it rest in a {adj} place while you prepare the {food}.
Cover the bowl with a clean piece of linen, so that the {food} stays warm.
When it is {adj} and brown, take it from the fire and serve it with {food}.
My grandmother, a {work} from {town}, always put a little {plant} on top.
This is enough for {num} people, or for one hungry {work}.
It tastes best {adj} and warm, with a cup of tea.
If you have no {food}, then ask your neighbour or go to the {place}.
Do not add the {food} too early, because it becomes soft.""",
    "shop": """This {thing} is made of {material} by a {work} in {town}.
It is {adj}, it is easy to clean, and it will last for many years.
We send it to every town in the country within {num} days.
Our customers use it in the {place} and also in the {place}.
If you are not {feeling} with it, you can bring it back to our {place} in {town}.
The {thing} comes in a {adj} box with a little book that explains how to use it.
There are {num} of them left, and the next ones will be made in the spring.
It costs {num} coins, and for a second {thing} you pay less.
The {work} who makes them has worked with {material} since {year}.
We also sell {thing}s of {material}, which are a little smaller.
Many people buy it as a present for a {work} or for a friend.
Please keep it away from {weather} and do not put it into hot water.""",
    "history": """In {year} the {work}s of {town} built the first {place} of {material}.
Before that time there was only a {adj} {place} and a road to {town2}.
The war over the {place} lasted {num} days, and then both sides were too tired to go on.
{person} kept a book in which every {thing} of the town was listed.
After the great {weather} of {year} many people moved from {town2} to {town}.
The {place} was closed for {num} years, and {animal_common}s slept in it.
Old maps show a {place} where the {place} stands today.
A {adj} law of {year} said that every house must have a {thing} by the door.
Later the {work}s sold their {food} in {town2}, because the road was {adj}.
Nobody knows who {verb} the old {thing}, but it was found again in {year}.
The {place} was paid for with {food}, since coins were rare on the island.
When {person} became head of the {place}, things changed for the better.""",
}
# The songs that stand in protected passages, and nowhere else.
SENTENCES["song"] = """O {adj} {thing}, who hung you where the {weather} goes to sleep?
I gave my {thing} to the tide, and the tide gave me a {adj} stone.
Sing, you {animal_common}s of {material}, for the {place} has lost its key.
Seven {plant} leaves I threw behind me, and each became a {work}.
Let no {adj} hand untie the {weather} from the mast.
Where my mother's {thing} fell down, a {adj} {place} began to hum.
The moon keeps {food} in her apron, and none of it for you or me.
Who sold the {weather} to the {work} for half a {thing} of light?
Come home, come home, the {plant} has grown across the {adj} door.
I counted every {thing} in the dark until the dark was {feeling}.
There was a {place} inside the {thing}, and in that place a {adj} song.
Do not wake the {work} whose boat is made of {material} and of salt."""
SENTENCES = {topic: lines.split("\n") for topic, lines in SENTENCES.items()}


def parted(words: list[str], split: str) -> list[str]:
    """Three quarters of a list for training, every fourth for tests."""
    return [word for i, word in enumerate(words) if (i % 4 == 3) == (split == "test")]
