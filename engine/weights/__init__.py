"""Weights for users: files and model cards."""
