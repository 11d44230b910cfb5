"""Layers used by more than one architecture."""
