"""Selective scan: the operator, its fused 2-D form, and the choice of a backend."""
