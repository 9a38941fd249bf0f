"""What the demo's little world talks about: categories of everyday tasks, written for this project.

Alternatives are separated by ``|``. ``{t}`` is the topic of the prompt, ``{a} {b} {c}`` are three different items (a
capital letter capitalises the item), ``{f}`` is the fact that belongs to the topic.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Category:
    name: str
    tasks: tuple[str, ...]
    """Imperatives with ``{t}``."""
    topics: tuple[str, ...]
    items: tuple[str, ...]
    bodies: tuple[str, ...]
    """The content of an answer, independent of its style."""
    facts: tuple[str, ...] = ()
    """Parallel to ``topics``; empty where the bodies use no ``{f}``."""


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split("|") if part.strip())


def _category(name: str, tasks: str, topics: str, items: str, bodies: str, facts: str = "") -> Category:
    return Category(name, _split(tasks), _split(topics), _split(items), _split(bodies), _split(facts))


CATEGORIES: tuple[Category, ...] = (
    _category(
        "greeting",
        "greet a customer in a {t}|write a greeting for guests of a {t}",
        "bakery|bookshop|hotel|garden centre|flower shop|bicycle shop",
        "warm bread|fresh flowers|new arrivals|a quiet corner|free tea|today's offer|a friendly team",
        "Welcome to our {t}, we have {a} and {b} for you.|Good morning and welcome to the {t}, do look at {a}."
        "|Hello, our {t} is open and {a} is waiting, and {b} too.",
    ),
    _category(
        "colours",
        "name three colours for a {t}|suggest colours that suit a {t}",
        "kitchen|bedroom|garden fence|front door|winter coat|poster",
        "red|blue|green|yellow|white|grey|orange|brown|violet|black",
        "{A}, {b} and {c} suit a {t}.|Try {a} with {b}, and a little {c} for the {t}.|For a {t}, {a} goes with {b}.",
    ),
    _category(
        "weather",
        "describe the weather on a {t} day|say what a {t} day is like",
        "spring|summer|winter|windy|rainy|hot",
        "soft rain|a cold wind|bright sun|low clouds|morning fog|clear skies|warm air|a few showers",
        "Expect {a} in the morning and {b} later.|A {t} day often brings {a}, then {b}.|There is {a}, {b} and {c}.",
    ),
    _category(
        "thanks",
        "thank {t} for the help|write a thank-you note to {t}",
        "my neighbour|my teacher|a colleague|the driver|my sister|the nurse",
        "the time|the patience|the kind words|the good advice|the quick reply|the long evening",
        "Thank you for {a} and {b}, it meant a lot.|I am grateful for {a}, and for {b} as well."
        "|Many thanks to {t} for {a}.",
    ),
    _category(
        "apology",
        "apologise for {t}|write an apology for {t}",
        "a late parcel|a wrong order|a missed call|the noise|a broken cup|a long wait",
        "send a new one|pay the cost|call you today|check it twice|offer a discount|fix it tonight",
        "I am sorry for {t}, we will {a}.|Please excuse {t}, we will {a} and {b}.|We regret {t} and will {a} at once.",
    ),
    _category(
        "fruit",
        "list fruit for a {t}|name some fruit that fits a {t}",
        "salad|picnic|pie|smoothie|lunch box|jam",
        "apples|pears|plums|cherries|peaches|grapes|melon|berries|oranges|bananas",
        "{A}, {b} and {c} fit a {t}.|A {t} likes {a} and {b}.|Take {a}, some {b} and a few {c} for the {t}.",
    ),
    _category(
        "directions",
        "tell me the way to the {t}|give directions to the {t}",
        "station|museum|market|library|river|town hall",
        "the bridge|the old tower|the church|the school|the fountain|the bakery|the park",
        "Walk to {a}, turn left at {b}, and the {t} is ahead.|Pass {a} and {b}, then you see the {t}."
        "|The {t} is behind {a}, right after {b}.",
    ),
    _category(
        "recipe",
        "give me a small recipe for {t}|explain how to cook {t}",
        "soup|pancakes|noodles|rice|stew|an omelette",
        "onions|butter|salt|herbs|carrots|cheese|pepper|milk|mushrooms|garlic",
        "Heat {a}, add {b} and stir in {c}.|For {t}, mix {a} with {b} and cook it slowly.|Start with {a}, then add {b}.",
    ),
    _category(
        "capitals",
        "name the capital of {t}|tell me which city is the capital of {t}",
        "Norland|Vestria|Almara|Tolvania|Quenby|Zerrin|Osland|Pirea",
        "a harbour|a castle|wide streets|many bridges|a famous market|green hills",
        "The capital of {t} is {f}.|It is {f}, a city with {a} and {b}.|{f} is the capital of {t}, known for {a}.",
        "Tesk|Marran|Solveig|Dunmore|Pell|Kastor|Ilmen|Lorne",
    ),
    _category(
        "sleep",
        "give advice to someone who {t}|say what helps a person who {t}",
        "sleeps badly|wakes up tired|naps too long|goes to bed late|snores|dreams a lot",
        "a dark room|a short walk|warm milk|a quiet hour|less coffee|a fixed bedtime|an open window",
        "Try {a} and {b} in the evening.|Often {a} helps, and so does {b}.|Begin with {a}, then add {b} and {c}.",
    ),
    _category(
        "pets",
        "suggest a name for a {t}|find a good name for a {t}",
        "puppy|kitten|parrot|rabbit|pony|goldfish",
        "Milo|Luna|Pepper|Biscuit|Hazel|Ziggy|Clover|Rusty|Pearl|Otto",
        "{A} is a fine name for a {t}, or {b}.|How about {a}, {b} or {c}?|I would call the {t} {a} or perhaps {b}.",
    ),
    _category(
        "packing",
        "tell me what to pack for {t}|list things to take on {t}",
        "a beach trip|a hike|a city tour|a train ride|a camping week|a ski trip",
        "a hat|a water bottle|thick socks|a map|a warm jacket|sun cream|a torch|snacks",
        "Pack {a}, {b} and {c}.|For {t} you need {a} and {b}.|Take {a} first, then {b} if there is room.",
    ),
    _category(
        "gifts",
        "suggest a gift for {t}|think of a present for {t}",
        "a grandmother|a new neighbour|a young reader|a cook|a gardener|a runner",
        "a book|a plant|a scarf|a box of tea|a small lamp|a puzzle|a picture frame|good chocolate",
        "{A} or {b} would please {t}.|Think of {a}, perhaps with {b}.|For {t} I would choose {a}.",
    ),
    _category(
        "study",
        "explain how to study for {t}|give a study plan for {t}",
        "a maths test|a history exam|a spelling test|a driving test|a music exam|a biology quiz",
        "short notes|old questions|flash cards|a study group|a daily hour|a clear plan|good breaks",
        "Use {a} and {b} every day.|For {t}, begin with {a} and finish with {b}.|{A}, {b} and {c} make it easier.",
    ),
    _category(
        "cleaning",
        "explain how to clean {t}|say how I can clean {t}",
        "a window|an oven|a carpet|a wooden table|a teapot|white shoes",
        "warm water|vinegar|a soft cloth|baking soda|a little soap|a dry brush|lemon juice",
        "Use {a} and {b}, then let it dry.|Clean {t} with {a} and rinse it.|Put {a} on it, wait, and wipe with {b}.",
    ),
    _category(
        "garden",
        "name plants for {t}|suggest what to grow in {t}",
        "a sunny balcony|a shady yard|a small garden|a window box|a dry slope|a wet corner",
        "lavender|ferns|tomatoes|mint|roses|ivy|sunflowers|beans|thyme",
        "{A} and {b} grow well in {t}.|Plant {a} first and add {b} in May.|In {t}, {a}, {b} and {c} do fine.",
    ),
    _category(
        "exercise",
        "suggest an exercise for {t}|recommend a workout for {t}",
        "a stiff back|tired legs|a busy morning|a rainy day|an older person|a beginner",
        "slow stretching|a brisk walk|ten squats|light weights|easy yoga|swimming|balance training",
        "Start with {a} and go on with {b}.|{A} is good for {t}.|Do {a} for ten minutes, then {b}.",
    ),
    _category(
        "music",
        "recommend music for {t}|say which music fits {t}",
        "a dinner|a long drive|a wedding|a quiet evening|a dance party|a workday",
        "soft piano|old jazz|folk songs|a string quartet|happy pop|slow guitar|drum rhythms",
        "{A} and {b} fit {t}.|I like {a} for {t}, with {b} later.|Play {a} first, {b} after that.",
    ),
    _category(
        "email",
        "write a short email about {t}|draft a message about {t}",
        "a meeting|a holiday|a late report|a new price|a job offer|an invoice",
        "the date|the place|the next step|the final numbers|a short call|the open questions",
        "Hello, this is about {t}: please confirm {a} and {b}.|Dear team, regarding {t} I will send {a} soon."
        "|Hi, a note on {t}: we still need {a}.",
    ),
    _category(
        "meetings",
        "explain how to run {t}|tell me how to prepare {t}",
        "a team meeting|a first interview|a workshop|a budget talk|a video call|a class",
        "a clear agenda|a fixed end|good questions|a friendly start|short notes|one goal",
        "Prepare {a} and {b}.|A good start for {t} is {a}, then {b}.|With {a}, {b} and {c} it goes smoothly.",
    ),
    _category(
        "animals",
        "tell me a fact about {t}|describe {t}",
        "owls|foxes|bees|whales|hedgehogs|swans",
        "at night|in small groups|near water|in the forest|with great care|very quietly",
        "{T} {f} and live {a}.|It is known that {t} {f}.|{T} {f}, often {a} and {b}.",
        "turn their heads far|hear very well|dance to talk|sing long songs|roll into a ball|stay together",
    ),
    _category(
        "planets",
        "tell me about the planet {t}|describe the planet {t}",
        "Mercury|Venus|Mars|Jupiter|Saturn|Neptune",
        "thin clouds|deep valleys|strong storms|bright ice|old craters|long days",
        "{t} is {f}.|The planet {t} is {f} and has {a}.|{t}, which is {f}, shows {a} and {b}.",
        "small and hot|covered in clouds|red and dry|the largest of all|famous for its rings|cold and blue",
    ),
    _category(
        "jobs",
        "describe the work of a {t}|say what a {t} does",
        "baker|pilot|gardener|plumber|librarian|vet",
        "early hours|patient customers|careful planning|good tools|a calm voice|steady hands",
        "A {t} {f}.|The work of a {t} needs {a} and {b}.|A {t} {f} and depends on {a}.",
        "makes bread at night|flies planes|looks after plants|repairs pipes|finds books for readers|heals animals",
    ),
    _category(
        "opposites",
        "give the opposite of the word {t}|tell me the opposite of {t}",
        "hot|early|heavy|loud|narrow|empty|young|deep",
        "at school|in a poem|every day|in the news|in a story",
        "The opposite of {t} is {f}.|That would be {f}.|{F} is the opposite of {t}, as used {a}.",
        "cold|late|light|quiet|wide|full|old|shallow",
    ),
    _category(
        "rhymes",
        "find a word that rhymes with {t}|name a rhyme for {t}",
        "cat|moon|tree|light|ring|cake|rain|bell",
        "for a song|for a card|for a child|for a toast|for a poem",
        "{F} rhymes with {t}.|A rhyme for {t} is {f}, nice {a}.|You could use {f} {a}.",
        "hat|spoon|bee|night|king|lake|train|shell",
    ),
    _category(
        "numbers",
        "count the {t}|say how many {t} there are",
        "days in a week|months in a year|legs of a spider|hours in a day|sides of a cube|strings of a violin",
        "by heart|on paper|with the fingers|in class|step by step",
        "There are {f} {t}.|The answer is {f}.|You find {f} {t}, as one learns {a}.",
        "seven|twelve|eight|twenty-four|six|four",
    ),
    _category(
        "stories",
        "begin a story about {t}|write the first lines of a tale about {t}",
        "a lost key|an old clock|a shy dragon|a blue boat|a tiny village|a clever crow",
        "a sleeping town|a hidden door|a letter|a distant song|the first snow|a curious girl|the night train",
        "Once there was {t} and {a}, and nobody knew why.|It began with {a}, then came {t} and {b}."
        "|Long ago {t} met {a} near {b}.",
    ),
    _category(
        "jokes",
        "tell a joke about {t}|make a small joke about {t}",
        "a snail|a tired chair|a baker|two clouds|a lazy cat|a snowman",
        "a pillow|the moon|a sandwich|an umbrella|a bus ticket|the boss|a mirror",
        "Why did {t} bring {a}? Because {b} was busy.|What does {t} say to {a}? Mind {b}."
        "|Did you hear about {t} and {a}? It ended with {b}.",
    ),
    _category(
        "refunds",
        "answer a customer who wants a refund for {t}|reply to a refund request for {t}",
        "a jacket|a kettle|a ticket|a phone case|a lamp|a chair",
        "the receipt|the order number|a photo|your address|the bank details|the return form",
        "Please send {a} and {b} and we return the money.|For {t} we need {a}, the rest takes three days."
        "|A refund for {t} is possible with {a}.",
    ),
    _category(
        "opening hours",
        "tell a guest when the {t} opens|state the opening hours of the {t}",
        "pool|library|cafe|gym|gallery|zoo",
        "on Monday|on Tuesday|on Friday|at weekends|on holidays|in summer",
        "The {t} opens at {f} and is closed {a}.|It is open from {f}, also {a}.|We open the {t} at {f} {a}.",
        "seven|nine|eight|six|ten|half past nine",
    ),
    _category(
        "booking",
        "help a guest to book {t}|explain how to reserve {t}",
        "a table|a room|a tennis court|a boat|a tour|a concert seat",
        "your name|the date|the number of guests|a phone number|the arrival time|a special wish",
        "To book {t}, tell us {a} and {b}.|We need {a}, and {b} if you like.|{T} is free, please send {a}.",
    ),
    _category(
        "password",
        "help a user who {t}|tell a user what to do who {t}",
        "forgot the password|cannot log in|lost a code|changed phones|sees an error|locked the account",
        "open the settings|request a new code|check the spelling|restart the app|use the reset link|call support",
        "First {a}, then {b}.|You can {a} and after that {b}.|When someone {t}, it is best to {a}.",
    ),
    _category(
        "computer",
        "explain why a computer {t}|say what to do when a computer {t}",
        "is slow|gets hot|makes noise|will not start|has no sound|loses the network",
        "close some programs|clean the fan|restart it|check the cable|update the system|free some space",
        "When it {t}, {a} and {b}.|Often it helps to {a}, or to {b}.|Just {a} first, then {b}.",
    ),
    _category(
        "money",
        "give advice on saving for {t}|explain how to save money for {t}",
        "a bicycle|a holiday|a new sofa|a wedding|a course|a rainy day",
        "a small budget|a separate account|fewer snacks|a weekly limit|used goods|a monthly plan",
        "Use {a} and {b} to save for {t}.|{A} helps most, followed by {b}.|With {a} you reach {t} in a year.",
    ),
    _category(
        "children",
        "suggest a game for children {t}|find something to play for children {t}",
        "in the rain|at the beach|in the car|at a party|in the park|before bed",
        "hide and seek|word chains|paper boats|a treasure hunt|animal sounds|a memory game|ball throwing",
        "{A} is fun {t}, and so is {b}.|Let them try {a} or {b}.|Children {t} enjoy {a}.",
    ),
    _category(
        "health",
        "say what helps against {t}|give a tip against {t}",
        "a cold|a headache|a sore throat|dry skin|hiccups|tired eyes",
        "hot tea|fresh air|plenty of water|some rest|honey|a warm bath|a short nap",
        "{A} and {b} help against {t}.|Many people use {a}, others {b}.|Take {a}, then {b}, and see a doctor if it lasts.",
    ),
    _category(
        "tea",
        "explain how to make {t} tea|describe how {t} tea is made",
        "green|black|mint|ginger|fruit|chamomile",
        "hot water|a small pot|a spoon of honey|fresh leaves|a slice of lemon|five minutes",
        "Take {a} and {b} for {t} tea.|{T} tea needs {a}, then {b}.|Use {a}, wait a little and add {b}.",
    ),
    _category(
        "tools",
        "name the tool to {t}|tell me which tool I need to {t}",
        "cut wood|turn a screw|dig a hole|paint a wall|measure a room|fix a nail",
        "gloves|a steady table|good light|some patience|a helper|a pencil",
        "You need {f} and {a}.|To {t}, take {f}.|Use {f}, and keep {a} ready.",
        "a saw|a screwdriver|a spade|a roller|a tape measure|a hammer",
    ),
    _category(
        "clothes",
        "say what to wear to {t}|suggest clothes for {t}",
        "an interview|a wedding|a barbecue|the opera|a hike|a funeral",
        "a dark suit|a light shirt|clean shoes|a simple dress|a warm sweater|a neat jacket|long trousers",
        "Wear {a} with {b}.|For {t}, {a} is a safe choice.|{A}, {b} and {c} look right.",
    ),
    _category(
        "breakfast",
        "suggest a breakfast for {t}|plan a breakfast for {t}",
        "a busy student|a hungry child|an athlete|two guests|a late riser|a vegan friend",
        "oats|toast|fresh fruit|yoghurt|eggs|nuts|tomatoes|porridge",
        "Serve {a} with {b}.|{A}, {b} and {c} are a good start.|For {t} I suggest {a} and some {b}.",
    ),
    _category(
        "birthday",
        "write a birthday wish for {t}|congratulate {t} on a birthday",
        "my brother|an old friend|my boss|my aunt|a classmate|a little girl",
        "good health|many laughs|sunny days|sweet cake|new adventures|kind friends|quiet hours",
        "Happy birthday to {t}, with {a} and {b}.|I wish {t} {a} all year.|May the year bring {a}, {b} and {c}.",
    ),
    _category(
        "slogans",
        "write a slogan for {t}|invent a slogan for {t}",
        "a bakery|a bike shop|a toy store|a travel agency|a shoe maker|a juice bar",
        "fresh ideas|happy mornings|bright days|gentle prices|honest work|little wonders|big smiles",
        "{A} every day.|We bring {a} and {b}.|Come for {a}, stay for {b}.",
    ),
    _category(
        "travel",
        "recommend something to see in {t}|tell a tourist what to see in {t}",
        "Tesk|Marran|Solveig|Dunmore|Pell|Kastor",
        "the harbour|the castle|the night market|the glass tower|the botanic garden|the old mill|the opera",
        "Visit {a} and {b}.|In {t}, start at {a} and walk to {b}.|Everyone loves {a}, but {b} is quieter.",
    ),
    _category(
        "habits",
        "explain how to {t}|give one tip to {t}",
        "read more|drink more water|get up early|spend less|learn a language|stop worrying",
        "a fixed time|small steps|a note on the door|a patient friend|a simple list|a weekly reward",
        "To {t}, use {a} and {b}.|Try {a} for a month.|{A} works well, and {b} keeps you going.",
    ),
    _category(
        "feelings",
        "comfort someone who feels {t}|say something kind to a person who feels {t}",
        "sad|nervous|lonely|tired|angry|lost",
        "a deep breath|a long walk|a good friend|a warm meal|a little rest|soft music",
        "Feeling {t} is normal, and {a} may help.|Give yourself {a} and {b}.|When you feel {t}, try {a}.",
    ),
    _category(
        "shopping",
        "write a shopping list for {t}|list what to buy for {t}",
        "a pasta dinner|a birthday party|a quick lunch|a cold week|a picnic|a cheese cake",
        "flour|cheese|bread|lemons|tomatoes|cream|candles|juice|sugar|olives",
        "Buy {a}, {b} and {c}.|For {t} get {a} and {b}.|You need {a} and perhaps {b}.",
    ),
)
