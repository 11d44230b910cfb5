"""Published weights, and how far our outputs are from those of the published classes.

``python tests/golden_differences.py`` prints the table "Published weights, compared" of docs/methods.md. It needs the
shared folder; `tests/test_zoo2.py` runs the same comparisons.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lemamba.engine.weights.files import open_weights
from lemamba.model import build_model, model_entry
from lemamba.model.convert import convert_state_dict


@dataclass(frozen=True)
class Golden:
    """One published weight file, and where the inputs and outputs of the published class are.

    Attributes:
        arch: our network.
        weights: below ``weights/`` of the shared folder.
        arrays: below ``golden/`` of it, without ``_io.npz``.
        key: name of the network in the arrays.
        prefix: of the outputs; "raw" where the published class clips its "sr", "sr64" where float32 is too coarse.
    """

    arch: str
    weights: str
    arrays: str
    key: str
    prefix: str = "sr"

    def __str__(self) -> str:
        return f"{self.arch}-{self.weights.removeprefix('zoo2/')}"

    def cases(self, shared: Path) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
        """Give (input, {ms, lms, pan, sr}) for every input that the arrays hold an output of."""
        arrays = np.load(shared / f"golden/{self.arrays}_io.npz")
        output = f"{self.prefix}_{self.key}"
        for name in (n for n in arrays.files if n == output or n.startswith(f"{output}_")):
            end = name.removeprefix(output)
            found = {"sr": arrays[name]} | {role: arrays[f"{role}{end}"] for role in ("ms", "lms", "pan")}
            found |= {f"clusters{i}": arrays[f"clusters{i}{end}"] for i in (1, 2, 3) if f"clusters{i}{end}" in arrays}
            yield end.lstrip("_"), {role: torch.from_numpy(array) for role, array in found.items()}

    def network(self, shared: Path) -> torch.nn.Module:
        """Build our network for the bands and ratio of the arrays, with the published weights."""
        _, arrays = next(self.cases(shared))
        bands, guide = arrays["ms"].shape[1], arrays["pan"].shape[1]
        ratio = arrays["pan"].shape[-1] // arrays["ms"].shape[-1]
        sizes = {"img_channel": bands, "condition_channel": guide, "out_channel": bands, "ratio": ratio}
        network = build_model(self.arch, **sizes).eval()
        state = open_weights(str(shared / "weights" / self.weights)).state
        network.load_state_dict(convert_state_dict(self.arch, state), strict=True)
        return network


_DLPAN = {"PNN": "pnn", "PanNet": "pannet", "DiCNN": "dicnn1", "DRPNN": "drpnn", "MSDCNN": "msdcnn"}
DLPAN = [
    Golden(arch, f"dlpan/{sensor}/{file}.pth", f"zoo/dlpan_{sensor.lower()}", arch)
    for sensor in ("WV3", "QB")
    for arch, file in {**_DLPAN, "FusionNet": "fusionnet"}.items()
]
ADAPTED = [
    Golden("Z-PNN", "zoo2/zpnn/WV3_Z-PNN_model.tar", "zoo2/zpnn_wv3", "Z-PNN"),
    Golden("lambda-PNN", "zoo2/lambda_pnn/WV3_L-PNN_model.tar", "zoo2/lambdapnn_wv3", "Lambda-PNN"),
]
ZOO2 = [
    Golden("A-PNN", "zoo2/zpnn/WV3_A-PNN-TA-FR_model.tar", "zoo2/zpnn_wv3", "A-PNN"),
    Golden("A-PNN", "zoo2/zpnn/WV3_Z-PNN_model.tar", "zoo2/zpnn_wv3", "Z-PNN"),
    Golden("A-PNN", "zoo2/zpnn/WV3_L-PNN_model.tar", "zoo2/zpnn_wv3", "L-PNN_fast"),
    Golden("A-PNN", "zoo2/zpnn/WV3_ZL-PNN_model.tar", "zoo2/zpnn_wv3", "ZL-PNN_fast"),
    Golden("ADKNet", "zoo2/adknet/ADKNet4pansharpening.pth", "zoo2/adknet_wv3", "ADKNet"),
    Golden("ADKNet", "zoo2/adknet/ADKNet4HSISR.pth", "zoo2/hisr_x4", "ADKNet"),
    Golden("BAM", "zoo2/bam/pansharpening_NET_1000.pth", "zoo2/bam_qb", "BAM"),
    Golden("BAM", "zoo2/bam/HISR_CAVE_NET_1150.pth", "zoo2/hisr_x4", "BAM_CAVE"),
    Golden("BAM", "zoo2/bam/HISR_HARVARD_NET_1250.pth", "zoo2/hisr_x4", "BAM_HARVARD"),
    Golden("Fusformer", "zoo2/hiftool_qb/Fusformer_400.pth", "zoo2/hiftool_qb", "Fusformer", "raw"),
    Golden("PSRT", "zoo2/psrt/cave_x4_best.pth.tar", "zoo2/psrt_x4", "cave_x4"),
    Golden("PSRT", "zoo2/psrt/harvard_x4_best.pth.tar", "zoo2/psrt_x4", "harvard_x4"),
    Golden("PSRT", "zoo2/psrt/cave_x8_best.pth.tar", "zoo2/psrt_x8", "cave_x8"),
    Golden("PSRT", "zoo2/psrt/hiftool_CAVE_1750.pth", "zoo2/psrt_x4", "HIFtool_CAVE"),
    Golden("PSRT", "zoo2/psrt/hiftool_HARVARD_600.pth", "zoo2/psrt_x4", "HIFtool_HARVARD"),
    Golden("PSRT", "zoo2/hiftool_qb/PSRT_400.pth", "zoo2/hiftool_qb", "PSRT"),
    Golden("TDNet", "zoo2/tdnet/tdnet_pretrained.pth", "zoo2/tdnet_wv3", "TDNet"),
    Golden("U2Net", "zoo2/u2net/200000_iter.pth", "zoo2/u2net_wv3", "U2Net"),
]
OTHERS = [  # compared by tests/test_zoo2_adaptive.py
    Golden("ADWM-FusionNet", "zoo2/adwm/BWNET_FusionNet_WV3.pth", "zoo2/adwm_wv3", "FusionNet"),
    Golden("ADWM-LAGConv", "zoo2/adwm/BWNET_LAGConv_WV3.pth", "zoo2/adwm_wv3", "LAGConv", "sr64"),
    Golden("ADWM-LGPNet", "zoo2/adwm/BWNET_LGPNet_WV3.pth", "zoo2/adwm_wv3", "LGPNet"),
    Golden("CANNet", "zoo2/cannet/cannet_wv3.pth", "zoo2/cannet_wv3", "CANNet"),
    Golden("CANNet", "zoo2/cannet/cannet_qb.pth", "zoo2/cannet_qb", "CANNet"),
    Golden("FusionMamba", "zoo2/fusionmamba/420.pth", "zoo2/fusionmamba_wv3", "FusionMamba"),
]


def folder(shared: Callable[[str], Path], golden: Golden) -> Path:
    """Return the shared folder if it has the files of `golden`, else skip; `shared` is the fixture."""
    shared(f"weights/{golden.weights}")
    return shared(f"golden/{golden.arrays}_io.npz").parents[2]


@torch.inference_mode()
def differences(golden: Golden, shared: Path, dtype: torch.dtype | None = None) -> dict[str, float]:
    """Return the largest difference to the published class, as a share of its largest value, for every input.

    `dtype` is what is computed in; None = float32, or float64 where that is too coarse.
    """
    dtype = dtype or (torch.float64 if golden.prefix == "sr64" else torch.float32)
    network = golden.network(shared).to(dtype)
    found = {}
    for name, arrays in golden.cases(shared):
        expected = arrays["sr"]
        more = {"clusters": [arrays[f"clusters{i}"].long() for i in (1, 2, 3)]} if "clusters1" in arrays else {}
        sr = network(*(arrays[role].to(dtype) for role in ("ms", "lms", "pan")), **more)
        found[name] = ((sr - expected).abs().max() / expected.abs().max()).item()
    return found


def numbers_in_file(golden: Golden, shared: Path) -> int:
    """Count the parameters in a published file; tensors that share their storage count once."""
    state = open_weights(str(shared / "weights" / golden.weights)).state
    return sum({t.data_ptr(): t.numel() for t in state.values()}.values())


def row(golden: Golden, shared: Path) -> str:
    """Return one row of the table in docs/methods.md."""
    entry, network = model_entry(golden.arch), golden.network(shared)
    year = max(re.findall(r"\b(?:19|20)\d\d\b", entry.paper))
    _, arrays = next(golden.cases(shared))
    bands, guide = arrays["ms"].shape[1], arrays["pan"].shape[1]
    ratio = arrays["pan"].shape[-1] // arrays["ms"].shape[-1]
    published, ours = numbers_in_file(golden, shared), sum(p.numel() for p in network.parameters())
    setting = f"{bands} + {guide}, {ratio}"
    worst = max(differences(golden, shared).values())
    file = golden.weights.removeprefix("zoo2/")
    return f"| {entry.name} | {year} | {setting} | {published:,} | {ours:,} | `{file}` | {worst:.0e} |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(os.environ.get("LEMAMBA_SHARED", Path(__file__).resolve().parent.parent.parent / "shared"))
    print("| method | year | bands + guide, ratio | numbers in the file | parameters here | file | difference |")
    print("|---|---|---|---:|---:|---|---:|")
    for published_file in sorted([*DLPAN, *ADAPTED, *ZOO2, *OTHERS], key=lambda g: g.arch.lower()):
        print(row(published_file, folder), flush=True)
