"""Fusing images of any size: tiles, scenes, test sets, cost."""
