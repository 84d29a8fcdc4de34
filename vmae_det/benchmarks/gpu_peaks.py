"""Peak rates of GPUs in matrix multiplications, for model FLOPs utilization (MFU)."""

from __future__ import annotations

import re

# NVIDIA's data sheets, by a word of the name that PyTorch reports; the first match counts. TFLOP/s, dense:
# tensor cores in 16 bits, and float32 without TF32.
_PEAKS = {
    "B200": (2250, 75),
    "GH200": (989, 67),
    "H200": (989, 67),
    "H100 PCIe": (756, 51),
    "H100 NVL": (835, 60),
    "H100": (989, 67),
    "H800 PCIe": (756, 51),
    "H800": (989, 67),
    "A100": (312, 19.5),
    "A800": (312, 19.5),
    "A40": (149.7, 37.4),
    "A30": (165, 10.3),
    "A10": (125, 31.2),
    "L40S": (362, 91.6),
    "L40": (181, 90.5),
    "L4": (121, 30.3),
    "V100-PCIE": (112, 14),
    "V100": (125, 15.7),
    "T4": (65, 8.1),
}
_WITHOUT_BF16 = ("V100-PCIE", "V100", "T4")


def peak_flops(name: str, amp: str) -> float | None:
    """Return the floating-point operations per second of a GPU, or None if they are not known.

    Args:
        name: as `torch.cuda.get_device_name` returns it, such as "NVIDIA H100 80GB HBM3".
        amp: "none", "bf16" or "fp16".
    """
    for part, (half, single) in _PEAKS.items():
        if re.search(rf"\b{part}\b", name):
            if amp == "bf16" and part in _WITHOUT_BF16:
                return None
            return (single if amp == "none" else half) * 1e12
    return None
