"""The rail: which pages there are, in which stage of the loop, and which permission shows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class NavItem:
    key: str
    label: str
    icon: str
    path: str
    """Below ``/p/{slug}``; from the root when ``rooted``."""
    permission: str
    rooted: bool = False

    def url(self, slug: str) -> str:
        return self.path if self.rooted else f"/p/{slug}{self.path}"


@dataclass(frozen=True)
class NavStage:
    key: str
    label: str
    icon: str
    items: tuple[NavItem, ...]


HOME = NavItem("home", "Home", "home", "/", "project.view")

STAGES = (
    NavStage(
        "collect",
        "Collect",
        "thumb-up",
        (
            NavItem("annotate", "Annotate", "thumb-up", "/annotate", "rating.create"),
            NavItem("completions", "Completions", "messages", "/completions", "completion.view"),
            NavItem("raters", "Raters", "users", "/raters", "rater.view"),
            NavItem("sources", "Sources", "plug-connected", "/sources", "source.view"),
        ),
    ),
    NavStage(
        "align",
        "Align",
        "activity",
        (
            NavItem("readiness", "Readiness", "clipboard-check", "/readiness", "snapshot.view"),
            NavItem("snapshots", "Snapshots", "stack-2", "/snapshots", "snapshot.view"),
            NavItem("runs", "Runs", "activity", "/runs", "run.view"),
        ),
    ),
    NavStage(
        "prove",
        "Prove",
        "chart-dots",
        (
            NavItem("evaluations", "Evaluations", "chart-dots", "/evaluations", "evaluation.view"),
            NavItem("suites", "Suites", "clipboard-check", "/suites", "suite.view"),
            NavItem("ab", "Blind A/B", "arrows-left-right", "/ab", "project.view"),
        ),
    ),
    NavStage(
        "serve",
        "Serve",
        "versions",
        (
            NavItem("versions", "Versions", "versions", "/versions", "version.view"),
            NavItem("monitoring", "Monitoring", "heartbeat", "/monitoring", "monitoring.view"),
        ),
    ),
)

FOOT = (
    NavItem("workers", "Workers", "cpu", "/workers", "worker.view", rooted=True),
    NavItem("settings", "Settings", "settings", "/settings", "settings.view"),
)


@dataclass(frozen=True)
class NavLink:
    key: str
    label: str
    icon: str
    url: str
    current: bool


@dataclass(frozen=True)
class NavGroup:
    key: str
    label: str
    icon: str
    links: tuple[NavLink, ...]

    @property
    def current(self) -> bool:
        return any(link.current for link in self.links)


@dataclass(frozen=True)
class Navigation:
    home: NavLink
    groups: tuple[NavGroup, ...]
    foot: tuple[NavLink, ...]


def navigation(slug: str, path: str, can: Callable[[str], bool]) -> Navigation:
    """The links a person may follow in the project ``slug``; the one whose address ``path`` lies under is current."""

    def link(item: NavItem) -> NavLink:
        url = item.url(slug)
        here = path.rstrip("/") == url.rstrip("/") if item is HOME else path == url or path.startswith(url + "/")
        return NavLink(item.key, item.label, item.icon, url, here)

    groups = (
        NavGroup(stage.key, stage.label, stage.icon, tuple(link(item) for item in stage.items if can(item.permission)))
        for stage in STAGES
    )
    return Navigation(
        home=link(HOME),
        groups=tuple(group for group in groups if group.links),
        foot=tuple(link(item) for item in FOOT if can(item.permission)),
    )
