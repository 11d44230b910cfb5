"""Backend `reference`: the selective scan as it is defined, one step after the other. Slow; what tests compare with.

Source: Gu & Dao, "Mamba" (arXiv 2312.00752), algorithm 2. Shapes: u, delta (B, KD, L); A (KD, N); B, C (B, K, N, L);
D, delta_bias (KD); states (B, KD, N). Plain autograd, any floating dtype, so `torch.autograd.gradcheck` can check it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lemamba.model.ops.scan.interface import Backend, ScanInputs


def scan(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """Return y (B, KD, L) and the last state (B, KD, N), in the dtype of the inputs."""
    u, delta, A, B, C, D, delta_bias, delta_softplus, initial_state = inputs
    batch, channels, _ = u.shape
    per_group = channels // B.shape[1]
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    B = B.repeat_interleave(per_group, dim=1)  # (B, KD, N, L): each group serves KD/K channels
    C = C.repeat_interleave(per_group, dim=1)
    h = u.new_zeros(batch, channels, A.shape[1]) if initial_state is None else initial_state
    ys = []
    # unbind, not indexing: the gradient of L indexed slices would be L tensors of full length
    for u_t, d_t, B_t, C_t in zip(u.unbind(-1), delta.unbind(-1), B.unbind(-1), C.unbind(-1), strict=True):
        decay = torch.exp(d_t[..., None] * A)  # (B, KD, N)
        h = decay * h + (d_t * u_t)[..., None] * B_t
        ys.append((h * C_t).sum(-1))  # (B, KD)
    y = torch.stack(ys, dim=-1)
    if D is not None:
        y = y + D[:, None] * u
    return y, h


BACKEND = Backend("reference", lambda: (True, "sequential definition, for tests"), scan, float64=True, automatic=False)
