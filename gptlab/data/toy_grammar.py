"""The words and plots of the toy stories, as data for `toy_stories`.

A rule is a name and its alternatives, split by `|`. An alternative is text with slots:

    {toy}            a free choice among the alternatives of the rule `toy`
    {it:toy}         the same, and remembered under the name `it`
    {b:toy-a}        the same, but not what `a` chose
    {it}, {hero.his} what was remembered, as it is or in another form

`3* text` weighs three times as much as `text` (all weigh one otherwise); `word~she` is a name
with its pronoun; `+other` stands for all the alternatives of another rule. Line breaks and
runs of blanks count as one blank. Most words come from mid-sized, even lists that many plots
share: those are quick to learn, and they spread a story's surprise over all of it.
"""

# --- who and where ---------------------------------------------------------------------------

_WHO = {
    "story": "{opening} {hero.He} {loved} {ha:hobby} and {hobby-ha}. {when}, {hero} {plot}",
    "opening": """
        10* Once upon a time, there {was} a {ta:trait} and {trait-ta} {being}. {hero.He} lived
            {near} the {scenic} {place}.
        | 7* One day, a {ta:trait} and {trait-ta} {being} {moved} a {homely} {house} {near}
            the {scenic} {place}.
        | 3* Long ago, in a {homely} {house} {near} the {scenic} {place}, there lived a
            {ta:trait} and {trait-ta} {being}.""",
    "was": "was | lived",
    "being": "girl named {hero:girl} | boy named {hero:boy} | 2* {kind} named {hero:name}",
    "girl": """Lily~she | Mia~she | Anna~she | Rosie~she | Clara~she | Daisy~she | Ella~she
        | Nora~she | Ruby~she | Zoe~she | Molly~she | Lucy~she | Poppy~she | Hazel~she
        | Ivy~she | Jane~she | Kate~she | Tess~she | Wendy~she | Fern~she""",
    "boy": """Tom~he | Ben~he | Max~he | Sam~he | Leo~he | Jack~he | Finn~he | Oscar~he
        | Toby~he | Henry~he | Peter~he | Hugo~he | Will~he | Charlie~he | Noah~he | Adam~he
        | Felix~he | Jasper~he | Owen~he | Ned~he""",
    "name": "+girl | +boy",
    "kind": """fox | bear | rabbit | mouse | kitten | puppy | lamb | squirrel | hedgehog | badger
        | raccoon | panda | monkey | beaver | weasel | pony | piglet | goat | tiger | lion
        | hamster""",
    "trait": """kind | brave | clever | gentle | cheerful | shy | curious | funny | polite
        | lively | helpful | playful | thoughtful | friendly | careful | merry | patient
        | silly | hopeful | sweet | proud | jolly | bright | bold | modest | loyal | busy
        | dreamy | sensible | tidy | witty | young""",
    "moved": """moved into | settled into | came to live in | woke up in | was resting in
        | was singing in | was reading in | ran out of""",
    "house": "cottage | cabin | house | hut | tent | tower | wagon | treehouse | farmhouse",
    "homely": """tiny | cozy | tidy | round | wooden | warm | narrow | crooked | pretty | sunny
        | simple | plain | yellow | white | blue | green""",
    "near": "near | by | beside | close to | next to",
    "place": """forest | river | lake | meadow | hill | beach | village | farm | pond | orchard
        | bridge | market | school | park | harbor | stream | mill | castle | station | library
        | bakery | garden | island | valley | field""",
    "scenic": """little | pretty | quiet | sunny | green | peaceful | shady | lovely | hidden
        | famous | windy | misty | great | bright | busy""",
    "loved": """loved | liked | enjoyed | was good at | was fond of | dreamed of | adored
        | practiced""",
    "hobby": """singing | dancing | painting | drawing | reading | cooking | swimming | climbing
        | running | jumping | gardening | fishing | baking | skating | hiking | counting
        | whistling | knitting | sewing | building | camping | juggling | sledding | rowing
        | joking | writing | sailing | acting | exploring""",
    "when": "One {weather} {daytime}",
    "weather": """sunny | windy | cloudy | chilly | warm | cool | bright | calm | breezy | misty
        | fine | lovely | quiet | golden | mild | fresh | dry | gray""",
    "daytime": """morning | afternoon | day | Monday | Tuesday | Wednesday | Thursday | Friday
        | Saturday | Sunday | weekend""",
}

# --- sentences that many plots share ---------------------------------------------------------

_FRAMES = {
    "react": """
        "{alas}," {sighed} {hero} {sadly}. | {hero.He} felt {fa:sad} and {sad-fa}.""",
    "alas": """Oh no | Oh dear | Goodness | What a pity | What a shame | How awful | Not again
        | Poor me | Bother | Alas""",
    "sighed": "sighed | said | whispered | moaned | groaned | mumbled | murmured | muttered",
    "sadly": """sadly | softly | quietly | slowly | gloomily | glumly | unhappily | tearfully
        | weakly | nervously""",
    "sad": """upset | worried | gloomy | tearful | unhappy | cross | miserable | nervous | sorry
        | helpless | foolish | hopeless | troubled | puzzled""",
    "meet": "{soon}, {visitor} came {skipping} {merrily} {by}.",
    "soon": """Just then | Soon | After a while | At that moment | A minute later | Luckily
        | By chance | Before long | Suddenly | A little later""",
    "visitor": """{hero.his} {dear} {pal} {friend:name-hero}
        | a {trait} {kind} named {friend:name-hero}""",
    "dear": """best | old | dear | good | new | closest | favorite | wise | nice | loyal
        | clever""",
    "pal": "friend | cousin | neighbor | classmate",
    "skipping": """skipping | running | hopping | walking | strolling | marching | dancing
        | trotting | racing | rushing | wandering | hurrying | jogging | bouncing""",
    "merrily": "merrily | happily | loudly | proudly | cheerfully | joyfully | bravely | gladly",
    "by": """by | past | along | over | closer | up the path | down the lane | through the gate
        | across the grass | around the corner""",
    "comfort": '"{calm}," {told} {friend} {kindly}.',
    "calm": """Cheer up | Never mind | Stay calm | I can help | Let me help | Do not worry
        | I know how | Trust me | Look at me""",
    "told": "said | answered | replied | whispered | called | declared | announced | advised",
    "kindly": """kindly | gently | warmly | softly | cheerfully | calmly | brightly | politely
        | sweetly | firmly | wisely | bravely""",
    "thanks": '"{thank}, {friend}!" {cried} {hero} {happily}.',
    "thank": """Thank you | Thanks | Hooray | You did it | Well done | You are the best
        | What a surprise | How wonderful""",
    "cried": "cried | shouted | called | laughed | cheered | said | exclaimed | sang",
    "happily": """happily | joyfully | proudly | loudly | merrily | gladly | cheerfully | warmly
        | excitedly | gratefully""",
    "together": """together | side by side | for an hour | until noon | all morning | all day
        | until sunset | for hours""",
    "atlast": "At last | Finally | In the end | At long last | Soon enough | After some time",
    "danced": """danced | laughed | jumped | cheered | clapped | sang | giggled | glowed | beamed
        | grinned""",
    "joy": "joy | delight | glee | relief | pride | happiness | excitement | surprise",
    "glad": """happy | glad | proud | thankful | grateful | lucky | peaceful | cheerful
        | joyful | pleased | merry | content | relieved | wise""",
    "feel": "They felt {ga:glad} and {glad-ga}.",
}

# --- the lesson ------------------------------------------------------------------------------

_LESSONS = {
    "night": """That night | That evening | At bedtime | At sunset | After supper | From then on
        | From that day on | Ever after""",
    "knew": """knew | remembered | understood | believed | felt sure | told everyone | agreed
        | never forgot""",
    "helping": """a helping hand | a good friend | helping others | kind help | teamwork
        | a gentle word | friendship | working together""",
    "trying": """patience | practice | hope | hard work | trying again | never giving up
        | a calm mind | a little effort""",
    "honesty": """the truth | an honest word | being honest | a fair heart | saying sorry
        | a kept promise | keeping promises | honesty""",
    "sharing": """sharing | giving | a small gift | a kind deed | a generous heart | kindness
        | thinking of others | a warm smile""",
    "courage": """courage | a brave heart | being brave | a deep breath | facing fears
        | a bold step | a good friend | a cheerful song""",
    "moral": "{makes} {every} {time} {better}.",
    "makes": "makes | can make | always makes | will make",
    "every": "every | any | each | a hard | a sad | a long | a dull | a cold | a rainy | a bad",
    "time": "day | week | month | morning | night | year | hour | season",
    "better": """better | brighter | easier | happier | lighter | sweeter | warmer | nicer
        | richer""",
    "help_end": "{night}, {hero} {knew} that {helping} {moral}",
    "try_end": "{night}, {hero} {knew} that {trying} {moral}",
    "honest_end": "{night}, {hero} {knew} that {honesty} {moral}",
    "share_end": "{night}, {hero} {knew} that {sharing} {moral}",
    "brave_end": "{night}, {hero} {knew} that {courage} {moral}",
}

# --- plots: things lost, found and broken ----------------------------------------------------

_LOST_AND_BROKEN = {
    "lost_toy": """could not find {hero.his} {look} {color} {it:toy}. {react} {meet} They {looked}
        under the {wa:furniture} and behind the {furniture-wa}. {atlast}, {friend} {found} the
        {it} in a {color} {basket}. {thanks} {help_end}""",
    "found_treasure": """{found} a {look} {color} {it:treasure} {where}. {hero.He} {longed} to
        keep it. {meet} "I lost my {it}," {sighed} {friend} {sadly}. {hero} {gave} the {it} back
        at once. {friend} {danced} with {joy}. {honest_end}""",
    "broken_dish": """broke the {look} {color} {it:dish} of {hero.his} {who:elder} {accident}.
        {hero.He} {longed} to hide. {meet} "Tell the truth," {told} {friend} {kindly}. So {hero}
        did. {hero.His} {who} forgave {hero.him}, and they mended the {it} {together}.
        {honest_end}""",
    "borrowed_book": """borrowed a {look} {color} {it:paper} from {hero.his} {who:elder} and
        {stained} it with {stain}. {react} {meet} "Just say sorry," {told} {friend} {kindly}.
        {hero} took the {it} back and told the truth. {hero.His} {who} forgave {hero.him}.
        {honest_end}""",
    "lost_way": """followed a {look} {color} {it:flying} into the {woods} and got lost. {meet}
        They {walked} {past_one:past} and {past-past_one}. {atlast}, they {found} the {it} and the
        way home. {thanks} {brave_end}""",
    "windy_letter": """wrote a letter to {hero.his} {who:elder} about a {trait} {kind}, but the
        wind blew it over the {scenic} {place}. {react} {meet} {friend} jumped and caught it with
        a {pole}. {hero.His} {who} read the letter and {danced} with {joy}. {help_end}""",
}

_LOST_WORDS = {
    "color": "red | blue | green | yellow | purple | pink | silver | golden | white | brown",
    "look": "tiny | little | big | pretty | shiny | lovely | plain | funny",
    "toy": """ball | doll | drum | train | boat | robot | puppet | kite | truck | teddy | whistle
        | puzzle""",
    "furniture": "bed | table | sofa | chair | bench | shelf | desk | piano | stove | stairs",
    "looked": "looked | searched | peeked | hunted",
    "found": "found | spotted | noticed | saw",
    "basket": "basket | box | bucket | crate | chest | cart",
    "treasure": "ring | watch | key | coin | purse | scarf | button",
    "where": """on the path | in the grass | under a bush | by the road | near the gate
        | behind a log""",
    "elder": """grandmother | grandfather | mother | father | sister | brother | aunt | uncle
        | teacher""",
    "dish": "vase | cup | plate | lamp | mirror | bowl | chair",
    "accident": "by accident | by mistake | while playing | while dancing | with a ball",
    "longed": "longed | wanted | hoped | wished",
    "gave": "gave | handed | passed",
    "paper": "book | map | diary | card",
    "stained": "stained | splashed | covered",
    "stain": "paint | ink | jam | juice | mud | soup",
    "flying": "butterfly | dragonfly | balloon | feather | bird | leaf",
    "woods": "woods | fog | tall grass | bushes",
    "walked": "walked | climbed | crept | marched",
    "past": """past a cave | over a log | around a pond | across a stream | under a bridge
        | up a hill | down a path""",
    "pole": "ladder | stick | rope | broom | net | hook",
}

# --- plots: making and learning --------------------------------------------------------------

_MAKING = {
    "stuck_kite": """was flying a {look} {color} {it:flyer} when the wind blew it into a {tall}
        {tree}. {react} {meet} {comfort} {friend} {fetched} a {pole} and got the {it} down.
        {help_end}""",
    "baking": """wanted to bake a {flavor} {it:cake} for {hero.his} {who:elder}, but there was no
        {sugar}. {react} {meet} {friend} had some at home. They mixed and baked {together}.
        {hero.His} {who} ate the {it} and {danced} with {joy}. {help_end}""",
    "garden": """planted a {color} {seed} {it:seedling} {near} the {scenic} {place}. Nothing grew.
        {react} {meet} "Be patient," {told} {friend} {kindly}. They {waited} for {ten} days.
        {atlast}, the {it} had a {look} {color} flower! {try_end}""",
    "new_skill": """tried to learn how to {it:skill}, but {hero.he} {fell} again and again. {meet}
        {comfort} They practiced {together}. {atlast}, {hero} could {it} without help!
        {try_end}""",
    "falling_walls": """built a {homely} {it:building} from {color} {bricks}, but it {collapsed}.
        {react} {meet} {comfort} They worked {together}. {atlast}, the {it} stood {tall} and
        strong. {try_end}""",
    "stage_fright": """had to {perform} in a {show} in front of {crowd}. {hero.His} {legs} shook.
        {meet} {comfort} So {hero} took a deep breath and began. {atlast}, everyone {danced} with
        {joy}. {brave_end}""",
}

_MAKING_WORDS = {
    "flyer": "kite | balloon | glider",
    "tall": "tall | huge | mighty | big",
    "tree": "oak | pine | maple | willow",
    "fetched": "fetched | found | brought | borrowed",
    "flavor": "cherry | lemon | honey | carrot | banana | berry",
    "cake": "cake | pie | pudding | tart",
    "sugar": "sugar | flour | butter | milk",
    "seed": "lily | rose | tulip | bean",
    "seedling": "seed | bulb",
    "waited": "waited | watched | sang | hoped",
    "skill": "ride a bike | row a boat | swim | skate | juggle | whistle",
    "fell": "failed | slipped | stopped | got stuck",
    "building": "fort | castle | bridge | den | tower | house",
    "bricks": "boxes | blocks | pillows | blankets | bricks",
    "collapsed": "fell down | fell over | broke | tipped over",
    "perform": "sing | dance | act | juggle | play the drum | play the piano",
    "show": "show | play | concert | contest",
    "crowd": "a big crowd | the whole village | the whole school",
    "legs": "legs | knees | hands | lips",
}

# --- plots: friends and kindness -------------------------------------------------------------

_KINDNESS = {
    "picnic": """packed {food_one:food}, {food-food_one} and a {look} {color} blanket for a
        picnic, but {thief} ate it all. {react} {meet} {friend} had a {basket} full of {it:fruit}.
        They {shared} the {it} {together}. {share_end}""",
    "one_swing": """wanted to play on the {look} {color} {it:ride}. {meet} {friend} wanted the
        {it} too, so they {argued}. "Let us take turns," {told} {friend} {kindly}. So they counted
        to {ten} and shared the {it} {together}. {share_end}""",
    "market_day": """went to the market with {ten} coins to buy a {look} {color} {toy}. {meet}
        {friend} was {hungry_one:hungry} and {hungry-hungry_one}. So {hero} bought {it:fruit}
        instead, and they {shared} the {it} {together}. {thanks} {share_end}""",
    "too_many": """found a {basket} full of {it:fruit} and ate {ten} of them. {hero.His} tummy
        began to hurt. {meet} {friend} made {flavor} tea and told {hero.him} a story about a
        {trait} {kind}. {hero} gave {friend} the other {it}. {feel} {share_end}""",
    "homemade_gift": """wanted to make a gift for {hero.his} {who:elder}, but had no money.
        {react} {meet} They made a {look} {color} {it:gift} out of {material_one:material} and
        {material-material_one}. {hero.His} {who} got the {it} and {danced} with {joy}.
        {share_end}""",
    "hurt_bird": """{found} a small {it:wild} with a {sore} {wing} {where}. {meet} "We must be
        gentle," {told} {friend} {kindly}. They put the {it} in a {look} {color} {basket} and fed
        it {crumbs} {together}. {atlast}, the {it} was well. {help_end}""",
    "stuck_pet": """heard a {trait} {it:pet} crying {stuck}. {hero} pulled, but the {it} did not
        move. {meet} {comfort} {friend} {fetched} a {pole}, and they got the {it} out. The {it}
        {danced} with {joy}. {help_end}""",
    "sick_friend": """went to see {hero.his} {dear} {pal} {friend:name-hero}, who was in bed with
        {cold}. {friend} felt {fa:sad} and {sad-fa}. {hero} made {flavor} {it:soup} and told a
        story about a {trait} {kind}. {friend} finished the {it} and {danced} with {joy}. {thanks}
        {help_end}""",
    "lonely": """met a {trait} {kind} named {friend:name-hero}, who had just moved to the {scenic}
        {place} and felt {fa:sad} and {sad-fa}. {hero} {shook} and gave {friend} a {look} {color}
        {it:toy}. They played with the {it} {together}. {thanks} {feel} {share_end}""",
    "race": """ran in a race to the {scenic} {place}. {hero} was ahead of {friend:name-hero}, a
        {trait} {kind}, when {friend} {tripped} over a {stone}. {friend} felt {fa:sad} and
        {sad-fa}. {hero} stopped to help, and they crossed the line {hand}. {thanks}
        {help_end}""",
    "deep_water": """had to cross a {scenic} {stream} to visit {hero.his} {elder}, but the {plank}
        looked {shaky}. {meet} {comfort} They held hands and took {ten} steps. {atlast}, {hero}
        was across and {danced} with {joy}. {brave_end}""",
}

_KINDNESS_WORDS = {
    "food": "bread | cheese | cookies | salad | pancakes | nuts",
    "thief": "a goose | a goat | a dog",
    "fruit": "apples | pears | plums | grapes | cherries | berries | oranges | bananas",
    "shared": "shared | ate | enjoyed | tasted",
    "ride": "swing | slide | bike | sled | wagon | scooter",
    "argued": "argued | shouted",
    "ten": "two | three | four | five | six | seven | eight | nine | ten | twelve",
    "hungry": "hungry | thirsty | tired | cold",
    "gift": "card | crown | basket | hat | scarf | puppet",
    "material": "paper | ribbon | wool | leaves | string | beads | cloth | feathers",
    "wild": "robin | sparrow | duckling | owl",
    "sore": "sore | weak | hurt",
    "wing": "wing | leg | foot",
    "crumbs": "crumbs | seeds | corn | bread",
    "pet": "kitten | puppy | lamb | duckling | chick | frog",
    "stuck": """in a well | under a fence | behind a wall | in the mud | under a log
        | in a deep hole""",
    "cold": "a cold | a cough | a fever",
    "soup": "soup | tea | pudding",
    "shook": "waved | bowed | smiled",
    "tripped": "tripped | fell",
    "stone": "stone | log | branch | rope",
    "hand": "hand in hand | arm in arm | side by side | at the same time",
    "stream": "stream | river | creek",
    "plank": "bridge | boat",
    "shaky": "shaky | slippery | narrow | weak",
}

# ---------------------------------------------------------------------------------------------

SECTIONS: tuple[dict[str, str], ...] = (
    _WHO,
    _FRAMES,
    _LESSONS,
    _LOST_AND_BROKEN,
    _LOST_WORDS,
    _MAKING,
    _MAKING_WORDS,
    _KINDNESS,
    _KINDNESS_WORDS,
    {"plot": " | ".join(f"{{{name}}}" for name in (*_LOST_AND_BROKEN, *_MAKING, *_KINDNESS))},
)

RULES: dict[str, tuple[str, ...]] = {
    name: tuple(" ".join(alternative.split()) for alternative in text.split("|"))
    for section in SECTIONS
    for name, text in section.items()
}
"""The alternatives of every rule, by name."""
