"""Copy front-end files from ``node_modules`` (pinned by package-lock.json) into ``static/vendor``, and axe-core into ``tests/vendor``.

Run: ``npm ci --ignore-scripts && python scripts/vendor.py`` (``make vendor``). Nothing of Node runs in the product. Writes one
folder per package and version with its licence, one sprite of the icons we use, and ``manifest.json`` with a SHA-256 of each file.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULES = ROOT / "node_modules"

# Where to -> npm package -> (folder name, files to copy)
PACKAGES: dict[Path, dict[str, tuple[str, tuple[str, ...]]]] = {
    ROOT / "static" / "vendor": {
        "@fontsource-variable/inter": ("inter", ("files/inter-latin-wght-normal.woff2",)),
        "@tabler/core": ("tabler-core", ("dist/css/tabler.min.css",)),
        "@tabler/icons": ("tabler-icons", ()),
        "htmx.org": ("htmx", ("dist/htmx.min.js", "dist/ext/hx-sse.min.js")),
        "uplot": ("uplot", ("dist/uPlot.iife.min.js", "dist/uPlot.min.css")),
    },
    ROOT / "tests" / "vendor": {"axe-core": ("axe-core", ("axe.min.js",))},
}
# Tabler's package carries no licence file: the text is that of its icons, the copyright lines stand in its style sheet.
TABLER_COPYRIGHT = "Copyright 2018-2026 The Tabler Authors\nCopyright 2018-2026 codecalm.net Paweł Kuna"

ICONS = """
activity adjustments alert-circle alert-octagon alert-triangle archive arrow-back-up arrow-down arrow-left arrow-right arrow-up
arrows-left-right arrows-sort ban bell book bolt box bulb calendar chart-bar chart-dots chart-line check checklist checkbox
chevron-down chevron-left chevron-right chevron-up circle circle-check circle-dashed circle-x clipboard clipboard-check clock code
coins copy cpu database device-desktop device-floppy dots dots-vertical download eraser external-link eye eye-off file file-import
file-text filter flag flame folder gauge git-branch git-compare git-fork hash heartbeat help history home hourglass inbox info-circle
key keyboard language link list loader lock lock-open login logout mail map-pin menu-2 message message-2 message-circle messages
minus moon pencil photo player-pause player-play player-skip-forward player-stop plug plug-connected plug-connected-x plus
point printer progress question-mark refresh refresh-alert robot rocket rotate route scale search selector send server settings
shield shield-check shield-x snowflake sort-ascending sort-descending stack-2 star sun table tag target terminal thumb-down thumb-up
trash trophy upload user user-check user-plus user-x users versions wand world writing x zoom-in
"""


def locked_versions() -> dict[str, str]:
    """Package name -> version, from package-lock.json."""
    packages = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    return {path.removeprefix("node_modules/"): entry["version"] for path, entry in packages.items() if path}


def sprite() -> str:
    """One hidden SVG with a ``<symbol>`` per outline icon; stroke and size come from the ``.icon`` class."""
    symbols = []
    for name in sorted(set(ICONS.split())):
        svg = (MODULES / "@tabler/icons/icons/outline" / f"{name}.svg").read_text()
        inner = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL).split(">", 1)[1].rsplit("</svg>", 1)[0]
        inner = re.sub(r"\s*\n\s*", "", inner).replace(" />", "/>")
        inner = inner.replace('<path stroke="none" d="M0 0h24v24H0z" fill="none"/>', "")
        symbols.append(f'<symbol id="{name}" viewBox="0 0 24 24">{inner.strip()}</symbol>')
    return '<svg xmlns="http://www.w3.org/2000/svg">\n' + "\n".join(symbols) + "\n</svg>\n"


def licence(name: str) -> str:
    if name == "@tabler/core":
        text = (MODULES / "@tabler/icons" / "LICENSE").read_text()
        return re.sub(r"^Copyright.*$", TABLER_COPYRIGHT, text, count=1, flags=re.MULTILINE)
    return (MODULES / name / "LICENSE").read_text()


def copy_package(vendor: Path, name: str, version: str) -> None:
    installed = json.loads((MODULES / name / "package.json").read_text())["version"]
    if installed != version:
        sys.exit(f"node_modules has {name} {installed}, package-lock.json says {version}: run npm ci --ignore-scripts.")
    folder, files = PACKAGES[vendor][name]
    target = vendor / f"{folder}-{version}"
    target.mkdir(parents=True)
    for file in files:
        data = (MODULES / name / file).read_bytes()
        if not file.endswith(".woff2"):
            data = re.sub(rb"\n?(/\*|//)# sourceMappingURL=[^\n]*\n?", b"\n", data)
        (target / Path(file).name).write_bytes(data)
    if name == "@tabler/icons":
        (target / "icons.svg").write_text(sprite())
    (target / "LICENSE").write_text(licence(name))


def manifest(vendor: Path) -> dict[str, str]:
    """Path below the vendor folder -> SHA-256, sorted."""
    files = sorted(path for path in vendor.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(vendor).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def main() -> None:
    if not MODULES.is_dir():
        sys.exit("node_modules is missing: run npm ci --ignore-scripts first.")
    versions = locked_versions()
    for vendor, packages in PACKAGES.items():
        shutil.rmtree(vendor, ignore_errors=True)
        for name in packages:
            copy_package(vendor, name, versions[name])
        checksums = manifest(vendor)
        (vendor / "manifest.json").write_text(json.dumps(checksums, indent=2) + "\n")
        print(f"{len(checksums)} files in {vendor.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
