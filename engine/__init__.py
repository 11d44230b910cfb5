"""The engine: fit, validate, checkpoints, EMA, optimizers, schedules.

It receives built objects (network, data, loss, metric functions) and imports neither `model` nor `datasets`,
`losses` or `metrics`.
"""
