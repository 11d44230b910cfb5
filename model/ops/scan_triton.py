"""Backend `triton`: kernels for CUDA GPUs."""


def interpreted() -> bool:
    """Tell whether Triton's interpreter runs the kernels on the CPU."""
    return False


def probe() -> tuple[bool, str]:
    """Tell whether the kernels can run here, and why not."""
    return False, "not built yet"
