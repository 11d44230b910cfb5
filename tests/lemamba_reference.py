"""LE-Mamba a second time: a plain float64 forward pass over a dict of parameters.

Written from the description of the network alone, with no layer of the project: channel-first maps, explicit
sequences for the four directions, one Python loop over time. It is slow and only meant for 16 x 16 images. Run it to
make the golden file that the tests compare with::

    PYTHONPATH=. python tests/lemamba_reference.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from lemamba.model import build_model

GOLDEN = Path(__file__).parent / "golden" / "lemamba_small.npz"

# Two blocks in the first stage so that states are handed on; two stages so that the decoder receives both kinds.
SMALL = {
    "img_channel": 2,
    "condition_channel": 1,
    "out_channel": 2,
    "width": 4,
    "middle_blk_nums": 1,
    "ssm_enc_blk_nums": [2, 1],
    "ssm_dec_blk_nums": [2, 1],
    "ssm_chan_upscale": [1, 2],
    "ssm_ratios": [2, 1],
    "window_sizes": [4, None],
    "ssm_enc_d_states": [[2, 3], [None, 3]],
    "ssm_dec_d_states": [[None, 3], [2, 3]],
    "ssm_enc_convs": [[3, 5], [None, 5]],
    "ssm_dec_convs": [[None, 5], [3, 5]],
    "drop_path_rate": 0.0,
}

Params = dict[str, torch.Tensor]


def _sub(p: Params, prefix: str) -> Params:
    return {k[len(prefix) :]: v for k, v in p.items() if k.startswith(prefix)}


def _layer_norm(x: torch.Tensor, p: Params, eps: float) -> torch.Tensor:
    """Normalise x (B, c, H, W) over c."""
    mean = x.mean(1, keepdim=True)
    var = ((x - mean) ** 2).mean(1, keepdim=True)
    return (x - mean) / torch.sqrt(var + eps) * p["weight"][:, None, None] + p["bias"][:, None, None]


def _pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    y = torch.einsum("oc,bchw->bohw", weight.reshape(weight.shape[0], -1), x)
    return y if bias is None else y + bias[:, None, None]


def _sequences(x: torch.Tensor) -> list[torch.Tensor]:
    """Rows, columns, rows reversed, columns reversed: (B, c, L) each."""
    rows, columns = x.flatten(2), x.transpose(2, 3).flatten(2)
    return [rows, columns, rows.flip(2), columns.flip(2)]


def _to_pixels(y: torch.Tensor, k: int, H: int, W: int) -> torch.Tensor:
    if k >= 2:
        y = y.flip(2)
    return y.unflatten(2, (H, W)) if k % 2 == 0 else y.unflatten(2, (W, H)).transpose(2, 3)


def _scan_core(
    x: torch.Tensor, p: Params, prev: torch.Tensor | None, skip: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    B, D, H, W = x.shape
    N = p["A_log"].shape[1]
    R = p["dt_weight"].shape[2]
    y_sum, states = torch.zeros_like(x), []
    for k, xs in enumerate(_sequences(x)):
        rows = slice(k * D, (k + 1) * D)
        dt, Bt, Ct = torch.einsum("pd,bdl->bpl", p["x_proj"][k], xs).split([R, N, N], dim=1)
        delta = torch.log1p(torch.exp(torch.einsum("dr,brl->bdl", p["dt_weight"][k], dt) + p["dt_bias"][k][:, None]))
        A, u = -torch.exp(p["A_log"][rows]), xs
        if prev is not None and "W1" in p:
            prev_k = prev.unflatten(1, (4, -1))[:, k]
            s = torch.einsum("de,ben->bdn", p["W1"][rows, :, 0], prev_k)
            if skip is not None:
                skip_k = skip.unflatten(1, (4, -1))[:, k]
                W2 = p.get("W2")
                s = s + (skip_k if W2 is None else torch.einsum("de,ben->bdn", W2[rows, :, 0], skip_k))
            gate = torch.einsum("nd,bdl->bnl", p["G"][k * N : (k + 1) * N, :, 0], xs)
            u = xs + p["rho"][:, k] * torch.einsum("bdn,bnl->bdl", s, gate)
        h, ys = x.new_zeros(B, D, N), []
        for t in range(H * W):
            d = delta[:, :, t, None]
            h = torch.exp(d * A) * h + d * Bt[:, None, :, t] * u[:, :, t, None]
            ys.append((h * Ct[:, None, :, t]).sum(2) + p["D"][rows] * u[:, :, t])
        y_sum = y_sum + _to_pixels(torch.stack(ys, 2), k, H, W)
        states.append(h)
    return y_sum, torch.cat(states, 1)


def _vss(
    x: torch.Tensor, p: Params, prev: torch.Tensor | None = None, skip: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    op = _sub(p, "ss2d.")
    u, z = _pointwise(_layer_norm(x, _sub(p, "norm1."), 1e-6), op["in_proj.weight"]).chunk(2, 1)
    u = _layer_norm(u, _sub(op, "conv_norm."), 1e-5)
    kernel = op["conv.weight"]
    u = F.silu(F.conv2d(u, kernel, op["conv.bias"], padding=kernel.shape[-1] // 2, groups=u.shape[1]))
    y, state = _scan_core(u, op, prev, skip)
    y = _layer_norm(y, _sub(op, "out_norm."), 1e-5) * F.silu(z)
    x = x + _pointwise(y, op["out_proj.weight"])
    mlp = _sub(p, "mlp.")
    a, b = _pointwise(_layer_norm(x, _sub(p, "norm2."), 1e-6), mlp["fc1.weight"], mlp["fc1.bias"]).chunk(2, 1)
    gelu = 0.5 * b * (1 + torch.erf(b / 2**0.5))
    return x + _pointwise(a * gelu, mlp["fc2.weight"], mlp["fc2.bias"]), state


def _levm(
    x: torch.Tensor, pan: torch.Tensor, p: Params, window: int | None, prev: torch.Tensor | None, skip=None
) -> tuple[torch.Tensor, torch.Tensor]:
    B, c, H, W = x.shape
    guide = F.interpolate(pan, size=(H, W), mode="bilinear", align_corners=True)
    guide = _pointwise(guide, p["guide_point.weight"], p["guide_point.bias"])
    x = x + F.conv2d(guide, p["guide_depth.weight"], p["guide_depth.bias"], padding=1, groups=c)
    if window is not None and "enhanced_factor" in p:
        merged = torch.zeros_like(x)
        for top in range(0, H, window):
            for left in range(0, W, window):
                box = (..., slice(top, top + window), slice(left, left + window))
                merged[box] = _vss(x[box], _sub(p, "local."))[0]
        x = merged * p["enhanced_factor"].reshape(-1, 1, 1) + x
    return _vss(x, _sub(p, "whole."), prev, skip)


def lemamba(lms: torch.Tensor, pan: torch.Tensor, p: Params, config: dict, chain_decoder: bool = False) -> torch.Tensor:
    """Run the network in the dtype of the inputs; sizes must already be multiples of what the network needs."""
    windows, stages = config["window_sizes"], len(config["ssm_enc_blk_nums"])
    x = F.conv2d(lms, p["head.weight"], p["head.bias"], padding=1)
    kept = []
    for i in range(stages):
        state = None
        for j in range(config["ssm_enc_blk_nums"][i]):
            x, state = _levm(x, pan, _sub(p, f"encoders.{i}.{j}."), windows[i], state)
        kept.append((x, state))
        x = F.conv2d(x, p[f"downs.{i}.weight"], p[f"downs.{i}.bias"], stride=2)
    state = None
    for j in range(config["middle_blk_nums"]):
        x, state = _levm(x, pan, _sub(p, f"middle.{j}."), windows[-1], state)
    for q in range(stages):
        skip, skip_state = kept.pop()
        x = F.interpolate(_pointwise(x, p[f"ups.{q}.weight"]), scale_factor=2, mode="bilinear")
        x = torch.cat((x, skip * p[f"skip_scales.{q}"].reshape(-1, 1, 1)), 1)
        x = _pointwise(x, p[f"merges.{q}.weight"], p[f"merges.{q}.bias"])
        incoming = state
        for j in range(config["ssm_dec_blk_nums"][stages - 1 - q]):
            prev = state if chain_decoder else incoming
            block = _sub(p, f"decoders.{q}.{j}.")
            x, state = _levm(x, pan, block, windows[stages - 1 - q], prev, skip_state)
    return F.conv2d(x, p["tail.weight"], p["tail.bias"], padding=1) + lms


def random_parameters(net: torch.nn.Module, seed: int) -> Params:
    """Draw parameters whose every part shows in the output: nothing zero, decays and steps in their usual range."""
    generator = np.random.default_rng(seed)
    p = {}
    for name, parameter in net.named_parameters():
        shape = tuple(parameter.shape)
        value = generator.standard_normal(shape) * 0.3
        if name.endswith("A_log"):
            value = generator.uniform(-0.5, 1.0, shape)
        elif name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "ss2d.D")):
            value = 1 + value
        # half precision keeps the file small; both implementations start from the rounded values
        p[name] = torch.from_numpy(value.astype(np.float16).astype(np.float64))
    return p


def main() -> None:
    """Write the golden file: inputs, parameters, output, gradient norm of every parameter, all from float64."""
    generator = np.random.default_rng(0)
    lms, pan = (torch.from_numpy(generator.uniform(0, 1, (2, c, 8, 16))) for c in (2, 1))
    shapes = build_model("LEMamba", **SMALL)  # names and shapes only
    p = {k: v.requires_grad_() for k, v in random_parameters(shapes, seed=1).items()}
    sr = lemamba(lms, pan, p, SMALL)
    output_gradient = torch.from_numpy(generator.standard_normal(sr.shape))
    sr.backward(output_gradient)
    arrays = {"lms": lms, "pan": pan, "sr": sr.detach(), "output_gradient": output_gradient}
    arrays |= {f"parameter/{k}": v.detach().half() for k, v in p.items()}
    arrays |= {f"gradient_norm/{k}": v.grad.norm() for k, v in p.items()}
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **{k: v.numpy() for k, v in arrays.items()})
    print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes, {len(p)} parameters")


if __name__ == "__main__":
    main()
