"""The application layer: one module per command, where model, data, metrics and engine meet."""
