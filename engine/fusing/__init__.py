"""Fusing with any method: how images are cut (`tiling`), fused (`tiles`), on which device and how fast (`runner`)."""
