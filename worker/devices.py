"""What a worker computes on, found without torch."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any


def list_devices() -> list[dict[str, Any]]:
    """[{"name", "kind": "cpu" | "cuda", "memory_bytes", "num_cores" (CPU)}]: the GPUs, or the CPU where there is none."""
    return cuda_devices() or [cpu_device()]


def cuda_devices() -> list[dict[str, Any]]:
    """As nvidia-smi tells; empty without it, or where CUDA_VISIBLE_DEVICES hides all; only those that it names."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in {"", "-1"}:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    found = parse_nvidia_smi(answer)
    indices = [index.strip() for index in (visible or "").split(",")]
    if visible is None:
        return found
    if not all(index.isdecimal() for index in indices):  # by UUID
        return found[: len(indices)]
    return [found[int(index)] for index in indices if int(index) < len(found)]


def parse_nvidia_smi(answer: str) -> list[dict[str, Any]]:
    """Lines such as ``NVIDIA H100 80GB HBM3, 81559``; a line without a size counts with 0 bytes."""
    found = []
    for line in answer.splitlines():
        name, _, mebibytes = line.rpartition(",")
        if name:
            size = int(mebibytes) * 2**20 if mebibytes.strip().isdecimal() else 0
            found.append({"name": name.strip(), "kind": "cuda", "memory_bytes": size})
    return found


def cpu_device() -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"name": f"{_cpu_name()}, {cores} cores", "kind": "cpu", "memory_bytes": memory, "num_cores": cores}


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
