"""LE-Mamba: a U-shaped state-space network with local-enhanced vision Mamba blocks and state sharing.

Paper: "A Novel State Space Model with Local Enhancement and State Sharing for Image Fusion", ACM MM 2024,
arXiv 2404.09293. The class and keyword names are the published ones; the mapping from published parameter names is
`LEMamba.from_published`.

Legend: B batch, C bands, P guide channels (1 for PAN, 3 for RGB), H W full size, c width of a stage, D inner channels
of a scan (ssm_ratio * c), K = 4 scan directions, N state size. Feature maps are channels last, (B, H, W, c).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from lemamba.model.layers.conv import DepthwiseConv, conv_channels_last
from lemamba.model.layers.linear import Linear
from lemamba.model.layers.ss2d import StateGrad, VSSBlock
from lemamba.model.layers.window import pad_to_multiple, resize_window_states
from lemamba.utils.errors import UserError
from lemamba.utils.registry import register_model

LOCAL_SSM_RATIO = 2
LOCAL_MLP_RATIO = 1
GLOBAL_MLP_RATIO = 4


class State(NamedTuple):
    """Final scan states of a block: global (B, K * D, N), local per window (B * nh * nw, K * D, N), and (nh, nw)."""

    whole: torch.Tensor
    local: torch.Tensor | None = None
    grid: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class StageSettings:
    """Settings that the blocks of one stage share; `local_*` are None where the stage has no window."""

    channels: int
    window: int | None
    local_d_state: int | None
    d_state: int
    local_kernel: int | None
    kernel: int
    ssm_ratio: float

    @property
    def has_local(self) -> bool:
        """Return whether blocks of this stage have a local part."""
        return self.window is not None and self.local_d_state is not None

    @property
    def inner(self) -> int:
        """Inner channels D of the global scan."""
        return int(self.ssm_ratio * self.channels)

    @property
    def local_inner(self) -> int | None:
        """Inner channels D of the local scan, None without one."""
        return LOCAL_SSM_RATIO * self.channels if self.has_local else None


class LEVM(nn.Module):
    """Local-enhanced vision Mamba block: guide, scan inside windows, scan over the whole map.

    Args:
        settings: of the stage.
        condition_channel: guide channels P.
        prev, skip: settings of the stages whose states arrive (previous block, encoder mirror); None where there
            is none, so that no weights are created for it.
        share_local: let the local part receive local states, like the global ones.
        drop_path: drop probability of the residual branches of both parts.
        state_grad: see `lemamba.model.layers.ss2d.SS2D`.
    """

    def __init__(
        self,
        settings: StageSettings,
        condition_channel: int,
        *,
        prev: StageSettings | None = None,
        skip: StageSettings | None = None,
        share_local: bool = False,
        drop_path: float = 0.0,
        state_grad: StateGrad = "detached",
    ) -> None:
        super().__init__()
        c = settings.channels
        self.window = settings.window if settings.has_local else None
        self.guide_point = nn.Conv2d(condition_channel, c, 1)
        self.guide_depth = DepthwiseConv(c, 3)
        self.local, self.share_local = None, share_local
        if settings.has_local:
            local_prev = prev.local_inner if prev and share_local else None
            self.local = VSSBlock(
                c,
                mlp_ratio=LOCAL_MLP_RATIO,
                d_state=settings.local_d_state,
                kernel=settings.local_kernel,
                ssm_ratio=LOCAL_SSM_RATIO,
                prev_inner=local_prev,
                skip_inner=skip.local_inner if skip and local_prev is not None else None,
                drop_path=drop_path,
                state_grad=state_grad,
            )
            self.enhanced_factor = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, 1, c), std=0.02))
        self.whole = VSSBlock(
            c,
            mlp_ratio=GLOBAL_MLP_RATIO,
            d_state=settings.d_state,
            kernel=settings.kernel,
            ssm_ratio=settings.ssm_ratio,
            prev_inner=prev.inner if prev else None,
            skip_inner=skip.inner if skip else None,
            drop_path=drop_path,
            state_grad=state_grad,
        )

    def forward(
        self, x: torch.Tensor, guide: torch.Tensor, prev: State | None = None, skip: State | None = None
    ) -> tuple[torch.Tensor, State]:
        """Map x (B, H, W, c), guided by guide (B, H, W, P), to the same shape; also return the final states."""
        # A 1x1 convolution is a matrix product over channels; as such its result is channels last whatever P is.
        embedded = F.linear(guide, self.guide_point.weight.flatten(1), self.guide_point.bias)
        x = x + self.guide_depth(embedded)

        local_state, grid = None, (0, 0)
        if self.local is not None and self.window is not None:
            grid = (x.shape[1] // self.window, x.shape[2] // self.window)
            states = self._local(prev, grid), self._local(skip, grid)
            x, local_state = self.local.windows(
                x, self.window, self.enhanced_factor, *states, want_last=self.share_local
            )

        x, state = self.whole(x, prev.whole if prev else None, skip.whole if skip else None)
        return x, State(state, local_state, grid)

    def _local(self, state: State | None, grid: tuple[int, int]) -> torch.Tensor | None:
        """Return the local state resized to this stage's windows, or None where this block receives none."""
        if state is None or state.local is None or self.local is None or self.local.ss2d.W1 is None:
            return None
        return resize_window_states(state.local, state.grid, grid)


class _BlockMaker:
    """Create the blocks of a network in the order encoder, middle, decoder; drop rates grow linearly from 0.

    Args:
        count: blocks in all.
        drop_path_rate: of the last one.
        common: arguments of `LEVM` that all blocks share.
    """

    def __init__(self, count: int, drop_path_rate: float, common: dict[str, Any]) -> None:
        self.rates, self.common = iter(torch.linspace(0, drop_path_rate, count).tolist()), common

    def block(self, stage: StageSettings, prev: StageSettings | None, skip: StageSettings | None = None) -> LEVM:
        """Make one block of `stage` that takes states of the stages `prev` and `skip`."""
        return LEVM(stage, prev=prev, skip=skip, drop_path=next(self.rates), **self.common)

    def chain(self, stage: StageSettings, count: int, before: StageSettings | None) -> nn.ModuleList:
        """Make `count` blocks that each take the state of the one before, the first that of the stage `before`."""
        return nn.ModuleList(self.block(stage, stage if j else before) for j in range(count))


@register_model(
    "LEMamba",
    tasks=("pansharpening", "hmif"),
    ratios=(2, 4, 8, 16),
    paper="Cao et al., ACM MM 2024 (arXiv 2404.09293)",
    published_weights="yes",
)
class LEMamba(nn.Module):
    """LE-Mamba for pansharpening (P = 1) and hyperspectral-RGB fusion (P = 3): sr = lms + U-net(lms, pan).

    The defaults are the paper's tiny variant (743,464 parameters for 8 bands, 757,311 for 31 bands and RGB).

    Args:
        img_channel, condition_channel, out_channel: bands C of lms, guide channels P, bands of sr.
        width: channels of the first stage.
        ratio: resolution ratio H/h. The network works at full size, so it only documents the data.
        middle_blk_nums: blocks between encoder and decoder.
        ssm_enc_blk_nums, ssm_dec_blk_nums: blocks per stage, shallow first.
        ssm_chan_upscale: channel factor at each halving, shallow first.
        ssm_ratios: D / c of the global scans, shallow first.
        window_sizes: side of the local windows, shallow first; None = no local part.
        ssm_enc_d_states: (local, global) state sizes, shallow first.
        ssm_dec_d_states: the same for the decoder, *deepest first*.
        ssm_enc_convs: (local, global) depth-wise kernel sizes, shallow first.
        ssm_dec_convs: the same for the decoder, *deepest first*.
        drop_path_rate: grows linearly from 0 over all blocks in order encoder, middle, decoder.
        state_grad: "detached" = as published, shared states carry no gradient back into the scan they come from;
            "full" = they do.
        share_local_state: local scans receive local states too (Figure 2c of the paper; not in the release).
        share_across_stages: the first block of each later encoder stage and of the middle takes the last state
            before it.
        chain_decoder_states: a decoder block takes the state of the block before it in its stage.
        spectral_rank: R; the network sees R learnt mixtures of the bands and corrects them by mixtures of R features,
            so that cost and parameters hardly grow with C; at most C. None = as published, 3x3 convolutions from and
            to all bands.
        naf_enc_blk_nums, naf_dec_blk_nums, naf_chan_upscale, if_abs_pos, if_rope, patch_merge, upscale: keywords of
            the published configuration files; they have no effect here.

    H and W are arbitrary: images are padded by reflection to the multiple that the halvings and windows need
    (16 for the published variants) and the result is cropped.
    """

    # For a type checker, iterating over a ModuleList yields bare Modules.
    encoders: Any
    downs: Any
    middle: Any
    ups: Any
    decoders: Any

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        width: int = 32,
        *,
        ratio: int = 4,
        middle_blk_nums: int = 1,
        ssm_enc_blk_nums: Sequence[int] = (2, 1, 1),
        ssm_dec_blk_nums: Sequence[int] = (2, 1, 1),
        ssm_chan_upscale: Sequence[int] = (1, 1, 1),
        ssm_ratios: Sequence[float] = (2, 2, 1),
        window_sizes: Sequence[int | None] = (8, 8, None),
        ssm_enc_d_states: Sequence[Sequence[int | None]] = ((16, 32), (16, 32), (None, 32)),
        ssm_dec_d_states: Sequence[Sequence[int | None]] = ((None, 32), (16, 32), (16, 32)),
        ssm_enc_convs: Sequence[Sequence[int | None]] = ((7, 11), (7, 11), (None, 11)),
        ssm_dec_convs: Sequence[Sequence[int | None]] = ((None, 11), (7, 11), (7, 11)),
        drop_path_rate: float = 0.1,
        state_grad: StateGrad = "detached",
        share_local_state: bool = False,
        share_across_stages: bool = False,
        chain_decoder_states: bool = False,
        spectral_rank: int | None = None,
        naf_enc_blk_nums: Sequence[int] = (),
        naf_dec_blk_nums: Sequence[int] = (),
        naf_chan_upscale: Sequence[int] = (),
        if_abs_pos: bool = False,
        if_rope: bool = False,
        patch_merge: bool = True,
        upscale: int | None = None,
    ) -> None:
        super().__init__()
        per_stage = {
            "ssm_enc_blk_nums": ssm_enc_blk_nums,
            "ssm_dec_blk_nums": ssm_dec_blk_nums,
            "ssm_chan_upscale": ssm_chan_upscale,
            "ssm_ratios": ssm_ratios,
            "window_sizes": window_sizes,
            "ssm_enc_d_states": ssm_enc_d_states,
            "ssm_dec_d_states": ssm_dec_d_states,
            "ssm_enc_convs": ssm_enc_convs,
            "ssm_dec_convs": ssm_dec_convs,
        }
        _check_arguments(per_stage, middle_blk_nums, state_grad, spectral_rank)
        stages = len(ssm_enc_blk_nums)
        levels = range(stages - 1, -1, -1)  # the decoder runs deepest first
        widths = [width * math.prod(ssm_chan_upscale[:i]) for i in range(stages + 1)]
        shallow_first = (widths, window_sizes, ssm_ratios)
        encoder = _stage_settings(range(stages), *shallow_first, ssm_enc_d_states, ssm_enc_convs)
        decoder = _stage_settings(levels, *shallow_first, ssm_dec_d_states, ssm_dec_convs)
        middle = replace(encoder[-1], channels=widths[-1])
        _check_state_sizes(encoder, middle, decoder, share_local_state)
        self.img_channel, self.condition_channel = img_channel, condition_channel
        self.chain_decoder_states, self.share_across_stages = chain_decoder_states, share_across_stages
        self.grad_checkpointing = False
        windows = (*window_sizes, window_sizes[-1])  # the middle has the windows of the last encoder stage
        self.multiple = math.lcm(2**stages, *(w * 2**i for i, w in enumerate(windows) if w))

        count = sum(ssm_enc_blk_nums) + middle_blk_nums + sum(ssm_dec_blk_nums)
        common = {"condition_channel": condition_channel, "share_local": share_local_state, "state_grad": state_grad}
        make = _BlockMaker(count, drop_path_rate, common)
        before = [None, *(encoder if share_across_stages else [None] * stages)]
        self.mix, self.unmix, seen, corrected = None, None, img_channel, out_channel
        if spectral_rank is not None:
            seen, corrected = min(spectral_rank, img_channel), min(spectral_rank, out_channel)
            self.mix, self.unmix = Linear(img_channel, seen, bias=False), Linear(corrected, out_channel)
        self.head = nn.Conv2d(seen, width, 3, padding=1)
        self.encoders = nn.ModuleList(map(make.chain, encoder, ssm_enc_blk_nums, before))
        self.downs = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 2, stride=2) for i in range(stages))
        self.middle = make.chain(middle, middle_blk_nums, before[-1])
        self.ups, self.merges, self.decoders = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.skip_scales = nn.ParameterList()
        for i, stage, below in zip(levels, decoder, [middle, *decoder], strict=False):
            self.ups.append(nn.Conv2d(widths[i + 1], widths[i], 1, bias=False))
            self.merges.append(Linear(2 * widths[i], widths[i]))
            self.skip_scales.append(nn.Parameter(torch.zeros(1, 1, 1, widths[i])))
            later = stage if chain_decoder_states else below  # the state that all blocks but the first receive
            self.decoders.append(
                nn.ModuleList(
                    make.block(stage, later if j else below, None if j else encoder[i])
                    for j in range(ssm_dec_blk_nums[i])
                )
            )
        self.tail = nn.Conv2d(width, corrected, 3, padding=1)
        self.apply(_init_weights)
        for layer in (self.mix, self.unmix):
            if layer is not None:  # mixtures have the size of the bands, whatever their number
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
                nn.init.normal_(self.tail.weight, std=1e-4)  # few mixtures reach all bands: start from lms

    def forward(self, ms: torch.Tensor, lms: torch.Tensor, pan: torch.Tensor) -> torch.Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, P, H, W) -> sr (B, C, H, W). `ms` is not used by this network."""
        self._check_inputs(lms, pan)
        H, W = lms.shape[-2:]
        padded = pad_to_multiple(lms, self.multiple)
        guides = self._guides(pad_to_multiple(pan, self.multiple))

        bands = padded.permute(0, 2, 3, 1)
        x = conv_channels_last(self.head, bands if self.mix is None else self.mix(bands))
        skips: list[tuple[torch.Tensor, State | None]] = []
        state: State | None = None
        for blocks, down, guide in zip(self.encoders, self.downs, guides, strict=False):
            x, state = self._chain(blocks, x, guide, state if self.share_across_stages else None)
            skips.append((x, state))
            x = conv_channels_last(down, x)

        x, state = self._chain(self.middle, x, guides[-1], state if self.share_across_stages else None)

        for q, blocks in enumerate(self.decoders):
            skip, skip_state = skips.pop()
            x = self._upsample(self.ups[q], x)
            x = self.merges[q](torch.cat((x, skip * self.skip_scales[q]), dim=-1))
            stage_state = state
            for levm in blocks:
                prev = state if self.chain_decoder_states else stage_state
                x, state = self._run(levm, x, guides[-2 - q], prev, skip_state)
        x = conv_channels_last(self.tail, x)
        sr = (x if self.unmix is None else self.unmix(x)).permute(0, 3, 1, 2) + padded
        return sr[..., :H, :W]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block in the backward pass: less memory for about a third more time."""
        self.grad_checkpointing = enable

    @torch.no_grad()
    def log_scalars(self, forward: Callable[[], object]) -> dict[str, dict[str, float]]:
        """Return what a pass did with local parts and shared states, by block; training logs it.

        Blocks are named "encoder1_block1", stages counted from the shallow end in the decoder too; the local part of a
        block has "_local" after its name.

        Args:
            forward: makes one pass of this network, perhaps through wrappers that gather its parameters.

        Returns:
            {"enhanced_factor": mean |factor| over the channels, 0 = the local part has no effect;
            "state_gate": see `lemamba.model.layers.ss2d.SS2D.gate_strength`, 0 = the shared state has no effect;
            "skip_scale": mean |scale| over the channels of a decoder stage, 0 = no features from the encoder}.
        """
        seen: dict[str, dict[str, torch.Tensor]] = {"enhanced_factor": {}, "state_gate": {}, "skip_scale": {}}

        decoders = [name for name in self.stages() if name.startswith("decoder")]

        def keep(group: str, name: str) -> Callable[[torch.Tensor], None]:
            return lambda value: seen[group].__setitem__(name, value.detach())

        def factor_of(name: str) -> Callable[[Any, Any], None]:
            return lambda levm, _: keep("enhanced_factor", name)(levm.enhanced_factor.abs().mean())

        def skips(network: Any, _: Any) -> None:
            for scale, stage in zip(network.skip_scales, decoders, strict=True):
                keep("skip_scale", stage)(scale.abs().mean())

        # read inside the pass: parameters that are split over processes are whole only there
        hooks = [self.register_forward_pre_hook(skips)]
        scans = []
        for name, levm in self._named_blocks():
            scans += [(name, levm.whole.ss2d)]
            if levm.local is not None:
                scans += [(f"{name}_local", levm.local.ss2d)]
                hooks += [levm.register_forward_pre_hook(factor_of(name))]
        try:
            for name, scan in scans:
                scan.on_gate = keep("state_gate", name)
            forward()
        finally:
            for _, scan in scans:
                scan.on_gate = None
            for hook in hooks:
                hook.remove()
        numbers = iter(torch.stack([v.float() for values in seen.values() for v in values.values()]).tolist())
        return {group: {name: next(numbers) for name in values} for group, values in seen.items()}

    def stages(self) -> dict[str, nn.ModuleList]:
        """Return the blocks of each stage in the order in which they run: encoder1, …, middle, …, decoder1."""
        encoders = {f"encoder{i}": blocks for i, blocks in enumerate(self.encoders, start=1)}
        count = len(self.decoders)
        decoders = {f"decoder{count - i}": blocks for i, blocks in enumerate(self.decoders)}
        return {**encoders, "middle": self.middle, **decoders}  # type: ignore[dict-item]

    def _named_blocks(self) -> Iterable[tuple[str, Any]]:
        """Yield all blocks with their names, in the order in which they run."""
        for stage, blocks in self.stages().items():
            yield from ((f"{stage}_block{i}", levm) for i, levm in enumerate(blocks, start=1))

    def _run(self, levm: LEVM, *inputs: Any) -> tuple[torch.Tensor, State]:
        """Run one block, recomputing it in the backward pass where activation checkpointing is on."""
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(levm, *inputs, use_reentrant=False)
        return levm(*inputs)

    def _chain(
        self, blocks: Iterable[Any], x: torch.Tensor, guide: torch.Tensor, state: State | None
    ) -> tuple[torch.Tensor, State | None]:
        """Run blocks that each take the state of the one before; `state` is what the first receives."""
        for levm in blocks:
            x, state = self._run(levm, x, guide, state, None)
        return x, state

    def _guides(self, pan: torch.Tensor) -> list[torch.Tensor]:
        """Resize the guide to every stage, shallow first and the middle last: (B, H / 2^i, W / 2^i, P) each."""
        H, W = pan.shape[-2:]
        sizes = [(H >> i, W >> i) for i in range(len(self.downs) + 1)]
        resized = (pan, *(F.interpolate(pan, size=s, mode="bilinear", align_corners=True) for s in sizes[1:]))
        return [g.permute(0, 2, 3, 1).contiguous() for g in resized]

    @staticmethod
    def _upsample(up: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        """1x1 convolution to the width above, then bilinear x2 (half-pixel centres)."""
        x = conv_channels_last(up, x).permute(0, 3, 1, 2)
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)

    def _check_inputs(self, lms: torch.Tensor, pan: torch.Tensor) -> None:
        expected = (self.img_channel, self.condition_channel)
        if (lms.shape[1], pan.shape[1]) != expected or lms.shape[-2:] != pan.shape[-2:]:
            raise UserError(
                f"LEMamba expects lms (B, {expected[0]}, H, W) and pan (B, {expected[1]}, H, W), given lms "
                f"{tuple(lms.shape)} and pan {tuple(pan.shape)}; check the data set and the number of bands"
            )

    @staticmethod
    def from_published(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Rename the parameters of a published checkpoint to those of this class; shapes are unchanged."""
        return {_rename(key): value for key, value in state_dict.items()}


def _stage_settings(
    levels: Iterable[int],
    widths: Sequence[int],
    window_sizes: Sequence[int | None],
    ssm_ratios: Sequence[float],
    d_states: Sequence[Sequence[int | None]],
    convs: Sequence[Sequence[int | None]],
) -> list[StageSettings]:
    """Settings of the stages at `levels`: d_states and convs are in the order of the levels, the rest shallow first."""
    return [
        StageSettings(widths[i], window_sizes[i], local_n, cast(int, n), local_k, cast(int, k), ssm_ratios[i])
        for i, (local_n, n), (local_k, k) in zip(levels, d_states, convs, strict=True)
    ]


def _check_arguments(
    per_stage: dict[str, Sequence], middle_blk_nums: int, state_grad: str, spectral_rank: int | None
) -> None:
    stages = len(per_stage["ssm_enc_blk_nums"])
    for name, values in per_stage.items():
        if len(values) != stages:
            raise UserError(
                f"LEMamba: {name} needs {stages} entries, one per stage as in ssm_enc_blk_nums, given {len(values)}"
            )
        if name.endswith(("_d_states", "_convs")) and any(len(pair) != 2 for pair in values):
            raise UserError(f"LEMamba: {name} needs pairs (local, global), given {values}; correct the configuration")
    if middle_blk_nums < 1:
        raise UserError(f"LEMamba: middle_blk_nums must be at least 1, given {middle_blk_nums}")
    if spectral_rank is not None and spectral_rank < 1:
        raise UserError(f"LEMamba: spectral_rank must be at least 1, or null for none, given {spectral_rank}")
    if state_grad not in ("detached", "full"):
        raise UserError(f'LEMamba: state_grad must be "detached" or "full", given "{state_grad}"')


def _check_state_sizes(
    encoder: list[StageSettings], middle: StageSettings, decoder: list[StageSettings], share_local: bool
) -> None:
    """Check that the state size N is the same in all stages, since states are shared unchanged."""
    stages = [*encoder, middle, *decoder]
    sizes: dict[str, set[int]] = {"global": {s.d_state for s in stages}}
    if share_local:
        sizes["local"] = {s.local_d_state or 0 for s in stages if s.has_local}
    for kind, values in sizes.items():
        if len(values) > 1:
            raise UserError(
                f"LEMamba shares {kind} states between stages, so their d_states must be equal, given {sorted(values)}"
            )


def _init_weights(module: nn.Module) -> None:
    """Linear: truncated normal 0.02; Conv2d: Kaiming normal over fan-out (groups ignored), as published."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


_PUBLISHED_NAMES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"^intro\.", "head."),
    (r"^ending\.", "tail."),
    (r"^lemm_encoders\.(\d+)\.mods\.", r"encoders.\1."),
    (r"^lemm_downs\.(\d+)\.1\.", r"downs.\1."),
    (r"^middle_blks\.mods\.", "middle."),
    (r"^lemm_ups\.(\d+)\.1\.", r"ups.\1."),
    (r"^lemm_decoders\.(\d+)\.mods\.0\.", r"merges.\1."),
    (r"^lemm_decoders\.(\d+)\.mods\.(\d+)\.", lambda m: f"decoders.{m[1]}.{int(m[2]) - 1}."),
    (r"\.intro_conv\.0\.", ".guide_point."),
    (r"\.intro_conv\.1\.", ".guide_depth."),
    (r"\.mamba_inner_shared\.", ".local."),
    (r"\.mamba\.", ".whole."),
    (r"\.norm\.body\.", ".conv_norm."),
    (r"\.(local|whole)\.norm\.", r".\1.norm1."),
    (r"\.op\.", ".ss2d."),
    (r"\.conv2d\.", ".conv."),
    (r"\.x_proj_weight$", ".x_proj"),
    (r"\.dt_projs_(weight|bias)$", r".dt_\1"),
    (r"\.A_logs$", ".A_log"),
    (r"\.Ds$", ".D"),
    (r"\.ssm_state_weight([12])$", r".W\1"),
    (r"\.xs_gate_weight$", ".G"),
    (r"\.ssm_gate_ratio$", ".rho"),
]


def _rename(key: str) -> str:
    for pattern, replacement in _PUBLISHED_NAMES:
        key = re.sub(pattern, replacement, key)
    return key
