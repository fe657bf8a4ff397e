"""The plots of the toy stories and the words that only they use; notation: story_rules.py."""

# --- plots: things lost, found and broken ----------------------------------------------------
LOST_AND_BROKEN = {
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

LOST_WORDS = {
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
MAKING = {
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

MAKING_WORDS = {
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
KINDNESS = {
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

KINDNESS_WORDS = {
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

PLOTS = (*LOST_AND_BROKEN, *MAKING, *KINDNESS)
SECTIONS = (LOST_AND_BROKEN, LOST_WORDS, MAKING, MAKING_WORDS, KINDNESS, KINDNESS_WORDS)
