"""Simulation of data sets, from real images or from nothing.

- `sources`: observed pairs and hyperspectral cubes as arrays, read from the files users have
- `wald`: degrade an image by its ratio, split its ground, cut samples
- `response`: what a guide sees of a hyperspectral cube
- `prepare`: from sources to the H5 files of a data set
- `synthetic`: the same from drawn ground, planned by `landscape`, with the objects of `ground` and the reflectances of
  `spectra`
"""
