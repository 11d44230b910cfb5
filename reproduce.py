"""Make a row of a table again and compare: data, training, fusing and measuring, from one recipe.

Examples::

    python reproduce.py --list
    python reproduce.py synthetic
    python reproduce.py ikonos --scene SCENE.mat
    python reproduce.py wv3 --data_root DATA
    python reproduce.py ikonos --measure fused.mat

A recipe (configs/recipes/*.yaml) holds the data, the commands, the seed, and the numbers with their bands. Every step
is shown as the command that does it; what is there already is not made again, and a training that was interrupted
goes on. Exit status: 0 all numbers in their bands, 1 some outside, 2 bad input, 130 stopped on the way.
"""

from lemamba.__main__ import run

if __name__ == "__main__":
    run("reproduce")
