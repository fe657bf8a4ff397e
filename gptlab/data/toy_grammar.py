"""The words and plots of the toy stories, as data for `toy_stories`.

A rule is a name and its alternatives, split by `|`. An alternative is text with slots:

    {toy}            a free choice among the alternatives of the rule `toy`
    {it:toy}         the same, and remembered under the name `it`
    {b:toy-a}        the same, but not what `a` chose
    {it}, {hero.his} what was remembered, as it is or in another form
    {toy.a}          a form can also be asked of a choice: `a` puts the article before it

`3* text` weighs three times as much as `text` (all weigh one otherwise); `word~she` is a name
with its pronoun; `+other` stands for all the alternatives of another rule. Line breaks and
runs of blanks count as one blank. Most words come from mid-sized, even lists that many plots
share: those are quick to learn, and they spread a story's surprise over all of it.
"""

_TEXT: dict[str, str] = {}

# --- who and where ---------------------------------------------------------------------------

_TEXT |= {
    "story": "{opening} {hero.He} {loved} {ha:hobby} and {hobby-ha}. {when}, {hero} {plot}",
    "opening": """
        10* Once upon a time, there {was} a {trait} {being}. {hero.He} lived {near} the
            {scenic} {place}.
        | 7* One day, a {trait} {being} {moved} a {homely} {house} {near} the {place}.
        | 3* Long ago, in a {homely} {house} {near} the {place}, there lived a {trait} {being}.""",
    "was": "was | lived",
    "being": "girl named {hero:girl} | boy named {hero:boy} | 2* {kind} named {hero:name}",
    "girl": """Lily~she | Mia~she | Anna~she | Rosie~she | Clara~she | Daisy~she | Ella~she
        | Nora~she | Ruby~she | Zoe~she | Molly~she | Lucy~she | Poppy~she | Hazel~she
        | Ivy~she | Jane~she | Kate~she | Tess~she | Wendy~she | Gwen~she | Fern~she
        | Bella~she | Sally~she | Olive~she""",
    "boy": """Tom~he | Ben~he | Max~he | Sam~he | Leo~he | Jack~he | Finn~he | Oscar~he
        | Toby~he | Henry~he | Peter~he | Hugo~he | Will~he | Charlie~he | Noah~he | Adam~he
        | Felix~he | Jasper~he | Owen~he | Ned~he | Rory~he | Simon~he | Victor~he | Gus~he""",
    "name": "+girl | +boy",
    "kind": """fox | bear | rabbit | mouse | kitten | puppy | lamb | squirrel | hedgehog | badger
        | raccoon | panda | monkey | beaver | otter | pony | piglet | goat | koala | donkey
        | tiger | lion | hamster | mole""",
    "trait": """kind | brave | clever | gentle | cheerful | shy | curious | funny | polite
        | lively | helpful | playful | thoughtful | friendly | careful | merry | patient
        | silly | hopeful | sweet | proud | jolly | bright | bold | modest | loyal | busy
        | dreamy | sensible | tidy | witty | young""",
    "moved": """moved into | settled into | came to live in | woke up in | was resting in
        | was singing in | was reading in | ran out of""",
    "house": "cottage | cabin | house | hut | tent | tower | wagon | bungalow | treehouse | farmhouse",
    "homely": """tiny | cozy | tidy | round | wooden | warm | narrow | crooked | pretty | sunny
        | simple | plain | yellow | white | blue | green""",
    "near": "near | by | beside | close to | next to | past",
    "place": """forest | river | lake | meadow | hill | beach | village | farm | pond | orchard
        | bridge | market | school | park | harbor | stream | mill | castle | station | library
        | mountain | bakery | canal | church | garden | island | valley | field""",
    "scenic": """little | pretty | quiet | sunny | green | peaceful | shady | lovely | hidden
        | famous | windy | misty | great | old | busy | charming""",
    "loved": """loved | liked | enjoyed | was good at | was fond of | dreamed of | adored
        | practiced""",
    "hobby": """singing | dancing | painting | drawing | reading | cooking | swimming | climbing
        | running | jumping | gardening | fishing | baking | skating | hiking | counting
        | whistling | knitting | sewing | building | camping | juggling | sledding | rowing
        | joking | writing | sailing | cycling | acting | exploring""",
    "when": "One {weather} {daytime}",
    "weather": """sunny | windy | cloudy | chilly | warm | cool | bright | calm | breezy | misty
        | fine | lovely | quiet | golden | mild | fresh | clear | dry | pleasant | gray""",
    "daytime": """morning | afternoon | day | Monday | Tuesday | Wednesday | Thursday | Friday
        | Saturday | Sunday | weekend""",
}

# --- sentences that many plots share ---------------------------------------------------------

_TEXT |= {
    "react": """
        "{alas}," {sighed} {hero} {sadly}. | {hero.He} felt {fa:sad} and {sad-fa}.""",
    "alas": """Oh no | Oh dear | Goodness me | What a pity | What a shame | How awful | Not again
        | Poor me | Bother | This is terrible""",
    "sighed": "sighed | said | whispered | moaned | groaned | mumbled | murmured | muttered",
    "sadly": """sadly | softly | quietly | slowly | gloomily | glumly | unhappily | tearfully
        | weakly | nervously""",
    "sad": """upset | worried | gloomy | tearful | unhappy | cross | miserable | nervous | sorry
        | helpless | foolish | hopeless | troubled | puzzled""",
    "meet": "{soon}, {visitor} came {skipping} {by}.",
    "soon": """Just then | Soon | After a while | At that moment | A minute later | Luckily
        | By chance | Before long | Suddenly | A little later""",
    "visitor": """{hero.his} {dear} {pal} {friend:name-hero}
        | a {trait} {kind} named {friend:name-hero}""",
    "dear": """best | old | dear | good | new | closest | favorite | trusty | wise | nice | loyal
        | clever""",
    "pal": "friend | cousin | neighbor | classmate",
    "skipping": """skipping | running | hopping | walking | strolling | marching | dancing
        | trotting | racing | rushing | wandering | hurrying | jogging | striding | galloping
        | bouncing""",
    "by": """by | past | along | over | closer | up the path | down the lane | through the gate
        | across the grass | around the corner""",
    "comfort": '"{calm}," {told} {friend} {kindly}.',
    "calm": """Do not worry | Cheer up | Never mind | Do not give up | Stay calm | I can help
        | Let me help | We can fix this | Leave it to me | I have an idea | I have a plan
        | Trust me""",
    "told": "said | answered | replied | smiled | whispered | promised | declared | announced",
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
    "atlast": "At last | Finally | In the end | Before long | Little by little | After some time",
    "danced": """danced | laughed | jumped | cheered | clapped | sang | giggled | glowed | beamed
        | grinned""",
    "joy": "joy | delight | glee | relief | pride | happiness | excitement | surprise",
    "glad": """happy | glad | proud | thankful | grateful | lucky | peaceful | cheerful
        | joyful | pleased | merry | content | relieved | wise""",
    "feel": "{both} felt {ga:glad} and {glad-ga}.",
    "both": "They both | The friends | The two of them",
}

# --- the lesson ------------------------------------------------------------------------------

_TEXT |= {
    "night": """That night | That evening | At bedtime | At sunset | After supper | From then on
        | From that day on | Ever after""",
    "knew": """knew | remembered | understood | believed | felt sure | told everyone | agreed
        | never forgot""",
    "helping": """a helping hand | a good friend | helping others | kind help | teamwork
        | a gentle word | friendship | working together""",
    "trying": """patience | practice | hope | hard work | trying again | never giving up
        | a calm mind | a little effort""",
    "honesty": """the truth | an honest word | being honest | a fair heart | saying sorry
        | a clear conscience | keeping promises | honesty""",
    "sharing": """sharing | giving | a small gift | taking turns | a generous heart | kindness
        | thinking of others | a warm smile""",
    "courage": """courage | a brave heart | being brave | a deep breath | facing fears
        | a bold step | trusting friends | a cheerful song""",
    "moral": "{makes} {every} {time} {better}.",
    "makes": "makes | can make | always makes | will make",
    "every": "every | any | each | a hard | a sad | a long | a dull | a cold | a rainy | a bad",
    "time": "day | week | month | morning | night | year | hour | season | winter",
    "better": """better | brighter | easier | happier | lighter | sweeter | warmer | nicer
        | gentler | richer""",
}

# --- plots: things lost, found and broken ----------------------------------------------------

_PLOTS: dict[str, str] = {}

_TEXT |= {
    "color": """red | blue | green | yellow | purple | pink | silver | golden | white | black
        | brown | striped""",
    "toy": """ball | doll | drum | train | boat | robot | puppet | kite | truck | teddy | top
        | whistle | puzzle | scooter""",
    "furniture": """bed | table | sofa | chair | bench | shelf | desk | piano | stove | cupboard
        | dresser | stairs""",
    "looked": "looked | searched | peeked | hunted",
    "found": "found | spotted | noticed | discovered | saw",
    "basket": """basket | box | bucket | drawer | closet | bag | trunk | barrel | pot | sack""",
    "treasure": """ring | watch | necklace | key | coin | purse | scarf | button | bracelet
        | lantern""",
    "where": """on the path | in the grass | under a bush | by the road | near the gate
        | behind a rock | on the steps | in the mud""",
    "elder": """grandmother | grandfather | mother | father | sister | brother | aunt | uncle
        | teacher""",
    "dish": "vase | cup | plate | lamp | mirror | bowl | clock | teapot | jar | window",
    "accident": """by accident | by mistake | while playing | while dancing | with a ball
        | with one elbow""",
    "mend": "mended | swept up | cleaned up | picked up",
}

_PLOTS |= {
    "lost_toy": """could not find {hero.his} {color} {it:toy}. {react} {meet} They {looked} under
        the {wa:furniture} and behind the {furniture-wa}. {atlast}, {friend} {found} the {it} in a
        {color} {basket}. {thanks} {help_end}""",
    "found_treasure": """{found} a {color} {it:treasure} {where}. {hero.He} {longed} to keep it.
        {meet} "I lost my {it}," {sighed} {friend} {sadly}. {hero} {gave} the {it} back at once.
        {friend} {danced} with {joy}. {honest_end}""",
    "broken_dish": """broke {hero.his} {who:elder}'s {color} {it:dish} {accident}. {hero.He}
        {longed} to hide. {meet} "Tell the truth," {told} {friend} {kindly}. So {hero} told
        {hero.his} {who} about the {it}. {hero.His} {who} was {glad}, and they {mend} the
        pieces {together}. {honest_end}""",
    "borrowed_book": """borrowed a {color} {it:paper} from {hero.his} {who:elder} and {stained} it
        with {color} {stain}. {react} {meet} "Just say sorry," {told} {friend} {kindly}. {hero}
        took the {it} back and told the truth. {hero.His} {who} {danced} with {joy} and forgave
        {hero.him}. {honest_end}""",
}

_TEXT |= {
    "longed": "longed | wanted | hoped | wished | decided | planned",
    "gave": "gave | handed | passed",
    "paper": "book | map | notebook | diary | album | songbook | letter | poster",
    "stained": "stained | splashed | spotted | smeared | covered",
    "stain": "paint | ink | jam | juice | mud | paste | chalk | soup",
}

# --- plots: making and learning --------------------------------------------------------------

_PLOTS |= {
    "stuck_kite": """was flying a {color} {it:flyer} when a {weather} wind blew it into a
        {tall} {tree}. {react} {meet} {comfort} {friend} {fetched} a {pole} and got the {it}
        down. {thanks} {help_end}""",
    "baking": """wanted to bake a {flavor} {it:cake} for {hero.his} {who:elder}, but there was no
        {sugar}. {react} {meet} {friend} had some at home. They {stirred} and baked {together}.
        {hero.His} {who} ate the {it} and {danced} with {joy}. {share_end}""",
    "garden": """planted a {color} {seed} {it:seedling} in a {basket} and gave it some water
        each {time}. Nothing grew. {react} {meet} "Be patient," {told} {friend} {kindly}.
        They {waited} {together}. {atlast}, the {it} had a {color} flower! {try_end}""",
    "new_skill": """tried to learn how to {it:skill}, but {hero.he} {fell} again and again.
        {react} {meet} {comfort} They practiced {together}. {atlast}, {hero} could {it} without
        {any} {help}! {thanks} {try_end}""",
    "falling_walls": """built a {homely} {it:building} from {color} {bricks}, but it {collapsed}.
        {react} {meet} {comfort} They {worked} {together}. {atlast}, the {it} stood {tall} and
        strong. {feel} {try_end}""",
    "spilled_paint": """was painting a {color} {it:painted} when {hero.he} spilled {color} paint on it.
        {react} {meet} "That looks like a {blot}," {told} {friend} {kindly}. So {hero} gave it
        {eyes}, and the {it} looked {better} than before. {thanks} {try_end}""",
    "castle": """made a {scenic} sandcastle with {shells} and {flags}, but a {tall} wave washed
        it away. {react} {meet} {comfort} They {worked} {together} and made a {better} one.
        {feel} {try_end}""",
    "stage_fright": """had to {perform} in a {it:show} in front of {crowd}. {hero.His} {legs} shook.
        {react} {meet} {comfort} So {hero} took a deep breath and began. {atlast}, everyone
        clapped and {danced} with {joy}. {thanks} {brave_end}""",
}

_TEXT |= {
    "flyer": "kite | balloon | glider | ribbon | streamer | parachute",
    "tall": "tall | huge | giant | high | mighty | big",
    "tree": "oak | pine | maple | willow | birch | elm | chestnut",
    "fetched": "fetched | found | brought | borrowed",
    "pole": "ladder | stick | rope | broom | rake | pole | net | hook",
    "flavor": "cherry | lemon | honey | carrot | banana | walnut | peach | berry",
    "cake": "cake | pie | pudding | tart | muffin | loaf",
    "sugar": "sugar | flour | butter | milk | cream | salt",
    "stirred": "stirred | mixed | measured | tasted | hummed",
    "seed": "lily | rose | tulip | bean | pea | melon | pumpkin | poppy",
    "seedling": "seed | bulb | sprout | plant",
    "waited": "waited | watched | sang songs | told jokes | played cards | kept watch",
    "skill": """ride a bike | skate | swim | juggle | dance | play the flute | tie a bow
        | whistle | jump rope | row a boat | ride a horse | do a handstand""",
    "fell": "failed | slipped | stopped | got stuck | got tired",
    "any": "any | much | more",
    "help": "help | trouble | fuss",
    "building": "fort | castle | bridge | den | tower | rocket | house | shed",
    "bricks": "boxes | blocks | sticks | stones | pillows | planks | blankets | bricks",
    "collapsed": "fell down | fell over | broke | tipped over | came apart | collapsed",
    "worked": "worked | labored | tried again | built",
    "painted": "flower | bird | ship | sunset | horse | rainbow | butterfly | star",
    "blot": "cloud | whale | dragon | snail | balloon | dinosaur | puddle | potato",
    "eyes": "eyes | wings | legs | a smile | a hat | a tail",
    "shells": "shells | pebbles | feathers | seaweed | driftwood | stones",
    "flags": "flags | towers | walls | gates | windows | stairs",
    "perform": "sing | dance | act | recite | play the drum | play the flute | tell jokes",
    "show": "show | play | concert | contest | parade | festival",
    "crowd": "a big crowd | the whole town | the whole school | everyone | many strangers",
    "legs": "legs | knees | hands | paws | lips",
}

# --- plots: friends and kindness -------------------------------------------------------------

_PLOTS |= {
    "picnic": """packed {food_one:food}, {food-food_one} and a {color} blanket for a picnic, but {thief} ate it
        all. {react} {meet} {friend} had a {basket} full of {it:fruit}. They {shared} the {it}
        {together}. {thanks} {share_end}""",
    "one_swing": """wanted to play on the {color} {it:ride}. {meet} {friend} wanted the {it} too,
        so they {argued} {together}. {react} "Let us take turns," {told} {friend} {kindly}.
        They counted to {ten} and took turns. {feel} {share_end}""",
    "market_day": """went to the {market} with {ten} coins to buy a {color} {toy}. {meet} {friend}
        was {hungry_one:hungry} and {hungry-hungry_one}. So {hero} bought {it:fruit} and gave the {it} to {friend}.
        {friend} ate and {danced} with {joy}. {feel} {share_end}""",
    "too_many": """found a {basket} full of {it:sweet} and ate {ten} of them. {hero.His} tummy
        began to {hurt}. {react} {meet} {friend} made {flavor} tea and told {hero.him} a story.
        {hero} gave {friend} the other {it}. {feel} {share_end}""",
    "homemade_gift": """wanted to make a gift for {hero.his} {who:elder}, but had no money. {react}
        {meet} {comfort} They made a {color} {it:gift} out of {material_one:material} and {material-material_one}.
        {hero.His} {who} got the {it} and {danced} with {joy}. {share_end}""",
    "hurt_bird": """{found} a small {it:wild} with a {sore} {wing} {where}. {meet} "We must be
        gentle," {told} {friend} {kindly}. They put the {it} in a {color} {basket} and fed it
        {crumbs} each {time}. {atlast}, the {it} was well. {feel} {help_end}""",
    "stuck_pet": """heard a {color} {it:pet} crying {stuck}. {hero} pulled, but the {it} did not
        move. {react} {meet} {comfort} {friend} {fetched} a {pole}, and they got the {it} out.
        The {it} {danced} with {joy}. {help_end}""",
    "sick_friend": """went to see {hero.his} {dear} {pal} {friend:name-hero}, who was in bed with
        {cold}. {friend} felt {fa:sad} and {sad-fa}. {hero} made {flavor} {it:soup} and told a
        story about a {trait} {kind}. {friend} finished the {it} and {danced} with {joy}.
        {thanks} {help_end}""",
    "lonely": """met a {trait} {kind} named {friend:name-hero}, who had just moved to the
        {place} and felt {fa:sad} and {sad-fa}. {hero} {shook} and gave {friend} a {color}
        {it:toy}. They played with the {it} {together}. {thanks} {share_end}""",
    "race": """ran in a race to the {place}. {hero} was ahead of {friend:name-hero}, a {trait}
        {kind}, when {friend} {tripped} over a {stone}. {friend} felt {fa:sad} and {sad-fa}.
        {hero} {stopped} to help, and they crossed the line {hand}. {thanks} {feel}
        {help_end}""",
    "lost_way": """followed a {color} {it:flying} into the {woods} and got lost. {react} {meet}
        {comfort} They {walked} {past_one:past} and {past-past_one}. {atlast}, they {found} the {place} and the
        {it} again. {thanks} {brave_end}""",
    "noise": """heard a {strange} noise {noise_where}. {react} {meet} {comfort} They held hands
        and {crept} closer with a {lamp}. It was only a {trait} {it:kind} with a {color}
        {toy}! The {it} {danced} with {joy}. {feel} {brave_end}""",
    "messy_room": """wanted to play, but the {homely} room was full of {mess_one:mess} and {mess-mess_one}.
        {react} {meet} {comfort} They {swept} and sang {together}. Under the {furniture}, they
        {found} a {color} {it:toy}. Then they played with the {it}. {feel} {help_end}""",
    "windy_letter": """wrote a letter to {hero.his} {who:elder} about a {trait} {kind}, but the
        wind blew it over the {place}. {react} {meet} {friend} {leaped} and caught it with a
        {pole}! {thanks} {hero.His} {who} read the letter and {danced} with {joy}.
        {help_end}""",
    "deep_water": """had to cross a {scenic} {stream} to visit {hero.his} {who:elder}, but the
        {plank} looked {shaky}. {react} {meet} {comfort} They held hands and took {ten} steps.
        {atlast}, {hero} was across and {danced} with {joy}. {thanks} {brave_end}""",
}

_TEXT |= {
    "food": """bread | cheese | cookies | salad | noodles | crackers | popcorn | pancakes
        | nuts | sandwiches""",
    "thief": "a goose | a seagull | a crow | a goat | a dog | an ant army",
    "fruit": "apples | pears | plums | grapes | cherries | berries | oranges | bananas",
    "shared": "shared | ate | enjoyed | tasted",
    "ride": "swing | slide | seesaw | bike | sled | trampoline | wagon | scooter",
    "argued": "argued | pouted | frowned | shouted | quarreled",
    "ten": "two | three | four | five | six | seven | eight | nine | ten | twelve",
    "market": "market | toy shop | fair | bazaar",
    "hungry": "hungry | thirsty | tired | cold | weak | wet",
    "sweet": "cookies | candies | donuts | cupcakes | chocolates | waffles | muffins | tarts",
    "hurt": "hurt | ache | rumble | grumble",
    "gift": "card | crown | basket | picture | bracelet | hat | mobile | fan | frame | puppet",
    "material": "paper | ribbon | wool | leaves | yarn | string | beads | cloth | cardboard | twigs",
    "wild": "robin | sparrow | duckling | owl | swallow | pigeon",
    "sore": "sore | bent | weak | hurt",
    "wing": "wing | leg | foot | toe",
    "crumbs": "crumbs | seeds | corn | worms | oats",
    "pet": "kitten | puppy | lamb | chick | duckling | calf | turtle | frog",
    "stuck": """in a well | in a ditch | under a fence | behind a wall | in the mud
        | under a log | in a deep hole""",
    "cold": "a cold | a cough | a fever | a headache | a sore throat",
    "soup": "soup | tea | porridge | broth | jelly | stew",
    "shook": "waved | bowed | smiled | said hello",
    "tripped": "tripped | stumbled | slipped | tumbled | fell",
    "stone": "stone | root | log | branch | rope | puddle",
    "stopped": "stopped | turned | came back | slowed down",
    "hand": "hand in hand | arm in arm | side by side | at the same time",
    "flying": "butterfly | dragonfly | balloon | feather | firefly | bird | moth | leaf",
    "woods": "woods | fog | bushes | tall grass | cornfield | cave",
    "walked": "walked | climbed | crept | marched | hiked",
    "past": """past a cave | over a log | around a swamp | across a creek | under a bridge
        | up a hill | down a trail | through a tunnel""",
    "strange": "strange | loud | scary | squeaky | spooky | creaky",
    "noise_where": """in the attic | in the cellar | in the hall | on the roof | by the door
        | under the bed | behind the wall | in the shed""",
    "crept": "crept | tiptoed | crawled | stepped | moved",
    "lamp": "lamp | lantern | candle | torch",
    "mess": """toys | books | socks | shoes | papers | blocks | crayons | dust | boxes | clothes
        | pillows | cups""",
    "swept": "swept | dusted | tidied | cleaned | scrubbed",
    "leaped": "leaped | jumped | dived | climbed up | stretched",
    "stream": "stream | river | creek | brook | swamp",
    "plank": "bridge | plank | log | raft | boat",
    "shaky": "shaky | slippery | narrow | weak | wobbly",
}

for _name in ("help", "try", "honest", "share", "brave"):
    _lesson = {"help": "helping", "try": "trying", "honest": "honesty"}.get(_name)
    _lesson = _lesson or {"share": "sharing", "brave": "courage"}[_name]
    _TEXT[f"{_name}_end"] = f"{{night}}, {{hero}} {{knew}} that {{{_lesson}}} {{moral}}"

_TEXT["plot"] = " | ".join(f"{{{name}}}" for name in _PLOTS)


def _split(text: str) -> tuple[str, ...]:
    return tuple(" ".join(alternative.split()) for alternative in text.split("|"))


RULES: dict[str, tuple[str, ...]] = {k: _split(v) for k, v in (_TEXT | _PLOTS).items()}
"""The alternatives of every rule, by name."""
