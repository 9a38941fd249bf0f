"""Find, or install, the Chromium that drives the browser tests. Prints which one is used; exits 1 when none can be had.

python scripts/browser.py          # make sure that there is one
python scripts/browser.py --path   # print its path only
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")


def on_path() -> str | None:
    return os.environ.get("KTO_CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)


def of_playwright() -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).is_file() else None


def install() -> str | None:
    print("No Chromium found. Trying Playwright's own install.", file=sys.stderr)
    try:
        command = [sys.executable, "-m", "playwright", "install", "chromium"]
        subprocess.run(command, check=True, timeout=300, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if found := of_playwright():
            return found
    except (subprocess.SubprocessError, OSError):
        pass
    if shutil.which("apt-get") and os.geteuid() == 0:
        print("Playwright has none for this machine. Installing Debian's chromium package.", file=sys.stderr)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-y", "-q", "chromium"]):
            subprocess.run(command, check=False, timeout=900, stdout=subprocess.DEVNULL, env=environment)
        return on_path()
    return None


def main() -> int:
    path = on_path() or of_playwright() or install()
    if path is None:
        print("The browser tests need Chromium and none can be had: install the package `chromium`.", file=sys.stderr)
        return 1
    print(path if "--path" in sys.argv else f"Browser tests use {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
