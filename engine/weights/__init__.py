"""Weights for users: files, model cards, whole-or-absent writing."""
