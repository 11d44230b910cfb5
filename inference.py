"""Fuse a test set or a GeoTIFF pair with a network or a classical method; the same as `lemamba fuse`.

Examples::

    python inference.py --weights log_file/LE-Mamba/RUN --dataset wv3 --data_root DATA
    python inference.py --weights LE-Mamba/RUN --data test.h5 --dataset wv3 --out sr.mat --tile 64 --overlap 16
    python inference.py --arch fusionnet --weights dlpan:fusionnet.pth --data test.h5 --dataset wv3
    python inference.py --arch MTF-GLP-FS --data test.h5 --dataset ikonos
    python inference.py --weights LE-Mamba/RUN --ms ms.tif --pan pan.tif --out fused.tif --tile 256 --overlap 32

Values are divided by the sensor's divisor before the method and multiplied by it afterwards. In between, the result of
a network is clipped to [0, 1], as the published scripts do; results of classical methods are not clipped.
"""

from lemamba.__main__ import run

if __name__ == "__main__":
    run("fuse")
