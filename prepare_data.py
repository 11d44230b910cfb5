"""Simulate data sets from a real scene or cube, draw a synthetic one, inspect and repack files; see docs/data.md.

Examples (the same as `lemamba prepare …`)::

    python prepare_data.py simulate SCENE.mat --sensor IKONOS --out data/ikonos
    python prepare_data.py simulate --ms ms.tif --pan pan.tif --sensor WV3 --out data/mine --name mine
    python prepare_data.py simulate CUBE.mat --wavelengths 380:2500 --ratio 4 --out data/jasper --name jasper
    python prepare_data.py cave complete_ms_data --ratio 8 --out data/cave
    python prepare_data.py estimate PAIR.mat --out DIR
    python prepare_data.py synthetic --out data/demo
    python prepare_data.py inspect FILE …
    python prepare_data.py repack FILE.h5 --out NEW.h5 --dtype uint16
"""

from lemamba.__main__ import run

if __name__ == "__main__":
    run("prepare")
