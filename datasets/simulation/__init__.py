"""Simulation of data sets, from real images or from nothing.

- `sources`: observed pairs and hyperspectral cubes as arrays, read from the files users have
- `wald`: degrade an image by its ratio, split its ground, cut samples
- `response`: what a guide sees of a hyperspectral cube
- `benchmarks`: CAVE and Harvard as downloaded, their splits and protocols
- `prepare`: from sources to the H5 files of a data set
- `drawn`: observed pairs with a known truth, from one seed: a landscape of `scenery` on a `canvas` (`plan`, `fields`),
  the reflectances of `materials`, seen by an `instrument`
- `synthetic`: data sets of drawn ground: of `drawn`, or as the published recipe has it: planned by `landscape`, with
  the objects of `ground` and the reflectances of `spectra`
"""
