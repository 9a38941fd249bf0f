"""``make demo``: the whole loop on one machine with a model of our own.

    python -m worker.demo.loop [--once] [--port 8000] [--data DIR]

Starts the product, and beside it a thread that does what a team would do: makes a project, imports thumbs, pushes some through
the API, freezes a snapshot, launches a KTO run, waits for its evaluations, makes a version and promotes it.
Every step is skipped when an earlier start has already done it.
"""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path

from app.cli import explain, settings_from
from app.core.storage import data_dir
from app.embedded.paths import default_data_dir
from app.embedded.supervisor import Supervisor, check_port
from app.serve import announce, base_url, processes, services
from app.settings import get_settings
from worker.demo.story import Story, StoryError, say


def demo_data_dir() -> Path:
    """Apart from the data of a product that is in use."""
    home = default_data_dir()
    return home.with_name(home.name + "-demo")


class StoryThread(threading.Thread):
    """Tells the story beside the supervisor, which must stay in the main thread."""

    def __init__(self, story: Story) -> None:
        super().__init__(name="story", daemon=True)
        self.story = story
        self.failure: str | None = None
        self.finished = threading.Event()

    def run(self) -> None:
        try:
            self.story.tell()
        except StoryError as error:
            self.failure = str(error)
        except Exception as error:
            self.failure = explain(error) or f"{type(error).__name__}: {error}"
        finally:
            self.finished.set()


def run(*, once: bool) -> int:
    settings = get_settings()
    check_port(settings.host, settings.port)
    with services() as running:
        announce(running)
        thread = StoryThread(Story(running.data.root))
        thread.start()
        reported = False

        def finished() -> bool:
            nonlocal reported
            if thread.finished.is_set() and not reported:
                reported = True
                if thread.failure:
                    say(f"The demo did not finish: {thread.failure}")
                elif not once:
                    say(f"Serving at {base_url()} until Ctrl-C.")
            return once and reported

        Supervisor(running, processes()).run(finished)
        thread.story.stop()
        thread.join(timeout=10)
    if once and not thread.finished.is_set():
        say("Stopped before the run was evaluated.")
        return 1
    if not once:
        say("Stopped.")
    return 1 if once and thread.failure else 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.demo.loop", description="The whole loop, by itself.")
    parser.add_argument("--once", action="store_true", help="exit 0 when the run has succeeded and been evaluated")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--data", type=Path)
    args = parser.parse_args(argv)
    try:
        settings_from(args.host, args.port, args.data or demo_data_dir())
        say(f"KTO Studio demo, data in {data_dir()}")
        return run(once=args.once)
    except KeyboardInterrupt:  # before the supervisor takes the signals
        say("Stopped.")
        return 130
    except Exception as error:
        words = explain(error)
        if words is None:
            raise
        say(f"Error: {words}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
