"""How many guide bands a network is defined for."""

from __future__ import annotations

from lemamba.utils.errors import UserError


def check_single_guide(name: str, guides: int) -> None:
    """Raise a `UserError` if a network that is defined for hyperspectral images and PAN gets several guide bands."""
    if guides != 1:
        raise UserError(f"{name}: expected 1 guide band (PAN), given {guides}; choose another network")


def check_one_guide_or_one_per_band(name: str, bands: int, guides: int) -> None:
    """Raise a `UserError` if the difference of guide and lms, which a network sees, is undefined."""
    if guides not in (1, bands):
        raise UserError(f"{name}: expected 1 or {bands} guide bands, given {guides}; choose another network")
