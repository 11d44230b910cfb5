"""The engine: training, fusing with tiles, and weight files.

It is given built objects (network, data, loss) and imports neither `lemamba.model` nor `datasets` nor `losses`.
"""
