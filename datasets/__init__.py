"""Data: H5 in, dict of float32 tensors out; simulation, synthetic scenes, inspection. Import from the modules.

This folder hides Hugging Face's package of the same name. Where that is installed, `accelerate` asks every data
loader whether its data set is one of `datasets.Dataset` or `datasets.IterableDataset`; two empty classes of these
names answer "no". (Torch's own classes must not stand here: they would answer "yes" and be taken for Hugging Face's.)
"""


class Dataset:
    """Nothing is an instance of this: see the module's text."""


class IterableDataset:
    """Nothing is an instance of this: see the module's text."""
