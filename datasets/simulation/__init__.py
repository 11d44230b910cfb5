"""Simulation of data sets: Wald's protocol, drawn scenes, spectral responses."""
