"""Data sets and scenes. Import from the modules.

- `build`, `h5`, `layout`, `transforms`: H5 data sets as dicts of float32 tensors, by name or path
- `pair`, `alignment`, `nodata`: MS + PAN images as one scene, read by windows
- `readers`, `raster`, `geotiff`: input formats, chosen by suffix
- `writers`: output formats, chosen by suffix, and H5 data sets
- `inspect`, `provenance`, `repack`: reports on files, and faster H5 files
- `simulation`: data sets from real images, cubes or drawn ground

In a clone this folder hides Hugging Face's package of the same name. If that is installed, `accelerate` checks whether
the data set of each loader is an instance of `datasets.Dataset` or `datasets.IterableDataset`; the two empty classes
below make the answer "no". (Torch's own classes must not be used here: the answer would be "yes".)
"""


class Dataset:
    """Never instantiated; see the module docstring."""


class IterableDataset:
    """Never instantiated; see the module docstring."""
