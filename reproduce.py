"""Reproduce a row of a results table and compare; the same as `lemamba reproduce`.

Examples::

    python reproduce.py --list
    python reproduce.py synthetic
    python reproduce.py ikonos --scene SCENE.mat
    python reproduce.py wv3 --data_root DATA
    python reproduce.py ikonos --measure fused.mat
"""

from lemamba.__main__ import run

if __name__ == "__main__":
    run("reproduce")
