"""The demo, three minutes on two free CPU cores: synthetic scene, H5, training, fused .mat, pictures, scores.

`make demo` runs it; the same as `lemamba demo`. Nothing is downloaded and no GPU is needed.
"""

from lemamba.__main__ import run

if __name__ == "__main__":
    run("demo")
