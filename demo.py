"""The whole way in under three minutes on two CPU cores: scene -> H5 -> training -> fused .mat, pictures, numbers.

Runs the project's own command lines, shows each, and compares LE-Mamba with plain interpolation (EXP). `make demo`
calls it; nothing is downloaded and no GPU is needed.
"""

from lemamba.__main__ import run

if __name__ == "__main__":
    run("demo")
