"""Classical pansharpening methods: no parameters, no training, the same ``forward(ms, lms, pan) -> sr``."""
