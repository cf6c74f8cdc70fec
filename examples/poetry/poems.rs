//! Ten poems, written for this example.

use std::time::Duration;

pub(crate) struct Poem {
    pub(crate) text: &'static str,
    /// Before each line.
    pub(crate) pause: Duration,
}

impl Poem {
    pub(crate) fn duration(&self) -> Duration {
        self.pause * self.text.lines().count() as u32
    }
}

const fn poem(millis: u64, text: &'static str) -> Poem {
    Poem { text, pause: Duration::from_millis(millis) }
}

pub(crate) const POEMS: [Poem; 10] = [
    poem(
        40,
        "\
Switchgrass

One field, and every blade is free
to bow, to wait, to stand again;
no blade has ever asked to be
the only one that gets the rain.

The wind arrives. It speaks to one,
then to the next, then to them all.
What it has started, it leaves undone,
comes back, and lets no seed head fall.
",
    ),
    poem(
        60,
        "\
The Kettle

I filled it, lit the flame, and then
I did not watch. I fed the cat,
wrote half a letter, found my pen,
and heard it call. That's all. Just that.
",
    ),
    poem(
        30,
        "\
On Waiting

They told me: he who waits is still.
I wait for ten things. I am not.
I mend the gate, I climb the hill,
I stir the pot.

And when the first of them is here
I drop the spoon, I say good day;
it thinks that I stood waiting, dear,
and nothing else, since yesterday.
",
    ),
    poem(
        55,
        "\
Threads

My mother kept her threads apart,
each on a spool, each spool a drawer.
My sister learned another art:
one needle, and a hundred more
loose ends laid ready on her knee,
picked up and put back, quietly.
",
    ),
    poem(
        70,
        "\
Frost

The river stopped to read a line.
The reeds are bookmarks. Spring will find
the page, the sentence and the sign,
and nothing that has slipped its mind.
",
    ),
    poem(
        45,
        "\
Post Office, Noon

A single clerk. The queue is long.
She stamps, she weighs, she says \"What's this?\",
and when a form is filled in wrong
she hands it back, and does not miss
a beat, but calls the next in line
and the next, until the first one's done
and steps back in. I have filled mine.
We are so many. She is one.
",
    ),
    poem(
        90,
        "\
Snail

I have no clock,
I have a wall.
The top of it
is after all
a place to be
by fall.
",
    ),
    poem(
        35,
        "\
Night Train

At every halt a lamp goes by,
a name, a bench, a man, a dog;
the wheels say when, the wheels say why,
the window writes it down in fog.

And no one boards, and no one leaves,
and still we stop, and still we go:
some guard, somewhere, who still believes
that someone might be there. You know

how trains are. Stop, and breathe, and start.
I sleep between. It suits my heart.
",
    ),
    poem(
        50,
        "\
Two Herons

One watched the left bank, one the right.
They never spoke. They shared a stream.
When something silver turned to light
one moved. The other kept its dream.
",
    ),
    poem(
        80,
        "\
Return

Where was I? Here. The cup is warm,
the comma waits, the lamp is on.
I left in the middle of a storm
and no one saw that I was gone.
",
    ),
];
