"""All methods on one test set: scores, cost, pictures.

Examples::

    python leaderboard.py --data test.h5 --dataset wv3 --out boards/wv3
    python leaderboard.py --dataset ikonos --data_root DATA --full DATA/test_ikonos_OrigScale_multiExm1.h5 \
        --weights LEMamba=LE-Mamba/RUN --weights PNN=dlpan:pnn.pth --out boards/ikonos
    python leaderboard.py --dataset ikonos --data_root DATA --train 10 --out boards/ikonos

Classical methods run as they are; a learned one runs where weights are given, or after training with equal time for
all (--train MINUTES). Every method runs in a process of its own: one that breaks is reported and the others go on,
and its peak memory is its own.
"""

from lemamba.__main__ import run

if __name__ == "__main__":
    run("board")
