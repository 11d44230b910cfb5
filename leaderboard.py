"""Compare methods, runs, seeds and settings on one test set: scores, tests, cost, pictures; as `lemamba board`.

Examples::

    python leaderboard.py --data test.h5 --dataset wv3 --out boards/wv3
    python leaderboard.py --dataset ikonos --data_root DATA --full DATA/test_ikonos_OrigScale_multiExm1.h5 \
        --weights LEMamba=LE-Mamba/RUN --weights PNN=dlpan:pnn.pth --out boards/ikonos
    python leaderboard.py --dataset ikonos --data_root DATA --train 10 --out boards/ikonos
    python leaderboard.py --dataset ikonos --data_root DATA --methods LEMamba --train 10 --seeds 1,2,3 \
        --grid state_grad=detached,full --out boards/ablation

Classical methods run as they are. A network runs if weights are given, or after training with the same time for all
(--train MINUTES). Each method runs in a separate process, so a failure does not stop the others and peak memory is
measured per method.
"""

from lemamba.__main__ import run

if __name__ == "__main__":
    run("board")
