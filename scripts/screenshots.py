"""Make the README's pictures again: starts the demo in a fresh folder, signs in, and photographs its pages.

    python scripts/screenshots.py [--data DIR] [--all DIR]

``--data`` keeps the demo's data for the next time; ``--all`` writes every page in light, dark and phone form there as well.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
PROJECT = "/p/demo-assistant"
README = {
    "home": f"{PROJECT}/",
    "annotate": f"{PROJECT}/annotate/main",
    "readiness": f"{PROJECT}/readiness",
    "run": f"{PROJECT}/runs/1",
    "diversity": f"{PROJECT}/evaluations/1/diversity",
    "comparison": f"{PROJECT}/evaluations/1/comparison",
    "versions": f"{PROJECT}/versions",
}
MORE = {
    "completions": f"{PROJECT}/completions",
    "completion": f"{PROJECT}/completions/1",
    "sources": f"{PROJECT}/sources",
    "import": f"{PROJECT}/sources/import",
    "snapshots": f"{PROJECT}/snapshots",
    "runs": f"{PROJECT}/runs",
    "launch": f"{PROJECT}/runs/new",
    "evaluations": f"{PROJECT}/evaluations",
    "evaluation": f"{PROJECT}/evaluations/1",
    "samples": f"{PROJECT}/evaluations/1/completions",
    "safety": f"{PROJECT}/evaluations/1/safety",
    "run-suites": f"{PROJECT}/evaluations/1/suites",
    "suites": f"{PROJECT}/suites",
    "blind": f"{PROJECT}/ab",
    "policy": f"{PROJECT}/versions/policy",
    "monitoring": f"{PROJECT}/monitoring",
    "card": f"{PROJECT}/versions/1/card",
    "settings": f"{PROJECT}/settings",
    "projects": "/projects",
    "account": "/account",
    "workers": "/workers",
    "docs": "/api/v1/docs",
    "missing": f"{PROJECT}/runs/99999",
}
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--hide-scrollbars",
]


def photograph(
    browser: Browser, url: str, state: dict[str, object], pages: dict[str, str], out: Path, form: str
) -> None:
    width, height = (390, 844) if form == "phone" else (1440, 900)
    scheme = "dark" if form == "dark" else "light"
    context = browser.new_context(
        base_url=url,
        storage_state=state,  # type: ignore[arg-type]
        viewport={"width": width, "height": height},
        color_scheme=scheme,  # type: ignore[arg-type]
        reduced_motion="reduce",
    )
    page = context.new_page()
    for name, path in pages.items():
        page.goto(path)
        page.wait_for_timeout(400)
        suffix = "" if form == "light" else f"-{form}"
        page.screenshot(
            path=out / f"{name}{suffix}.png", full_page=form != "light" or out != ROOT / "docs" / "pictures"
        )
    context.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--all", type=Path)
    parser.add_argument("--port", type=int, default=8765)
    args = parser.parse_args()
    folder = args.data or Path(tempfile.mkdtemp(prefix="kto-pictures-", dir="/tmp")) / "data"
    folder.parent.chmod(folder.parent.stat().st_mode | 0o111) if args.data is None else None
    command = [sys.executable, "-m", "worker.demo.loop", "--port", str(args.port), "--data", str(folder)]
    demo = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    link = ""
    assert demo.stdout is not None
    for line in demo.stdout:
        print(line, end="", flush=True)
        link = found.group(1) if (found := re.search(r"One-time sign-in: (\S+)", line)) else link
        if "Serving at" in line or "did not finish" in line:
            break
    try:
        out = ROOT / "docs" / "pictures"
        out.mkdir(parents=True, exist_ok=True)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=os.environ["KTO_CHROMIUM"], args=FLAGS)
            context = browser.new_context()
            page = context.new_page()
            page.goto(link)
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_url("**/p/**")
            state = context.storage_state()
            url = f"http://127.0.0.1:{args.port}"
            photograph(browser, url, dict(state), README, out, "light")
            if args.all:
                args.all.mkdir(parents=True, exist_ok=True)
                for form in ("light", "dark", "phone"):
                    photograph(browser, url, dict(state), README | MORE, args.all, form)
            browser.close()
    finally:
        demo.terminate()
        demo.wait(timeout=120)
    return 0


if __name__ == "__main__":
    sys.exit(main())
