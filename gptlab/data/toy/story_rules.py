"""The words and sentences that all toy stories share; story_plots.py has the plots.

A rule is a name and its alternatives, separated by `|`. An alternative is text with slots:

    {toy}            a free choice among the alternatives of the rule `toy`
    {it:toy}         the same, and remembered under the name `it`
    {b:toy-a}        the same, except what `a` chose
    {it}, {hero.his} a remembered choice, as it is or in another form

`3* text` has three times the weight of `text` (the default is one); `word~she` is a name with its
pronoun; `+other` includes all alternatives of another rule. Line breaks and runs of spaces count as
one space. Most words are in mid-sized lists of equal weights that many plots share: these are
learned quickly and spread the surprise over the whole story.
"""

from gptlab.data.toy import story_plots

# --- who and where ---------------------------------------------------------------------------
WHO = {
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
FRAMES = {
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
LESSONS = {
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

PLOT = {"plot": " | ".join(f"{{{name}}}" for name in story_plots.PLOTS)}
SECTIONS: tuple[dict[str, str], ...] = (WHO, FRAMES, LESSONS, *story_plots.SECTIONS, PLOT)

# The alternatives of every rule, by name.
RULES: dict[str, tuple[str, ...]] = {
    name: tuple(" ".join(alternative.split()) for alternative in text.split("|"))
    for section in SECTIONS
    for name, text in section.items()
}
