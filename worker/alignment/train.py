"""The training child: reads a spec, trains, and tells how it ended. ``python -m worker.alignment train spec.json``."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from worker.alignment.config import ConfigError, TrainSpec
from worker.alignment.errors import Reason, SpecError, StopRequest, TrainingError, is_out_of_memory
from worker.alignment.events import RunFinished
from worker.alignment.reporters import JsonlReporter, SilentReporter

if TYPE_CHECKING:
    from worker.alignment.checks import Checked
    from worker.alignment.distributed import World

PR_SET_PDEATHSIG = 1
LOST = "Another process of the run ended without a word, most likely because the machine's memory ran out."
T = TypeVar("T")


def read_spec(path: Path) -> TrainSpec:
    """Raises SpecError with one line that names the field and the remedy."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))  # editors of Windows write the mark
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}); name a JSON file") from error
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path}: is not JSON: {error}; write it as TrainSpec.to_json() makes it") from error
    if not isinstance(data, dict):
        raise SpecError(f"{path}: is not an object; write it as TrainSpec.to_json() makes it")
    try:
        return TrainSpec.from_json(data)
    except ConfigError as error:
        # As every other refusal names a setting: without the spec's own path.
        raise SpecError(
            "; ".join(f"{name.removeprefix('config.')}: {text}" for name, text in error.errors.items())
        ) from error


def run_spec(spec: TrainSpec) -> int:
    """Train one attempt in this process, or in the several that torchrun started and that each call this.

    Exit code: 0 succeeded or stopped, 1 failed; events say which and why. Raises SpecError, with nothing written, where the
    spec cannot run: see checks.py. Of several processes rank 0 raises it, and the others return 2.
    """
    stop = StopFlag()
    die_with_parent()
    with stop.installed():
        from worker.alignment.distributed import join_world, leave_world  # torch loads here, after the handlers stand

        world = join_world()
        try:
            checked = _agree(world, lambda: _check(spec, stop, world))
            reporter = _agree(world, lambda: _open_reporter(spec, world))
            finished = _attempt(spec, reporter, stop, None if world.any(checked is None) else checked, world)
        except SpecError:
            if world.is_main:
                raise
            return 2
        if finished.status == "failed":
            return 1
        leave_world(world)
        return 0


def _attempt(
    spec: TrainSpec, reporter: JsonlReporter, stop: StopFlag, checked: Checked | None, world: World
) -> RunFinished:
    """Run, and tell how it ended: the first failure of any process, by rank 0."""
    from worker.alignment.distributed import Failures, lost_peer

    def tell(finished: RunFinished) -> None:
        with contextlib.suppress(OSError):  # a full disk: the exit code still tells
            reporter.emit("run_finished", reporter.last_step, finished)
        reporter.close()
        if finished.status == "failed" and world.is_main:
            print(finished.message, file=sys.stderr)

    failures = Failures(world)
    failures.watch(lambda reason, message: tell(RunFinished(status="failed", reason=reason, message=message)))
    try:
        finished = _run(spec, reporter, stop, checked, world)
    except Exception as error:
        reason: Reason
        reason, message = ("unknown", LOST) if world.size > 1 and lost_peer(error) else classify(error)
        if failures.tell(reason, message):
            traceback.print_exc()
        finished = RunFinished(status="failed", reason=reason, message=message)
    failures.close()
    tell(finished)
    return finished


def _agree(world: World, work: Callable[[], T]) -> T:
    """Raises SpecError in every process where it was raised in one."""
    try:
        found, refusal = work(), None
    except SpecError as error:
        if world.size == 1:
            raise
        found, refusal = None, str(error)
    if first := next((text for text in world.gather(refusal) if text is not None), None):
        raise SpecError(first)
    return cast("T", found)


def _open_reporter(spec: TrainSpec, world: World) -> JsonlReporter:
    try:
        return JsonlReporter(spec.events_path) if world.is_main else SilentReporter()
    except OSError as error:
        raise SpecError(
            f"attempt_dir: {spec.attempt_dir} cannot be written ({error.strerror}); name another"
        ) from error


def _check(spec: TrainSpec, stop: StopFlag, world: World) -> Checked | None:
    """None where SIGTERM came before the snapshot was read."""
    from transformers.utils.logging import disable_progress_bar

    from worker.alignment.checks import check_folders, check_parallel, check_spec

    disable_progress_bar()  # stderr is for what went wrong
    check_parallel(spec.config, world.size)
    if world.is_main:
        check_folders(spec)
    try:
        return check_spec(spec, should_stop=stop)
    except StopRequest:
        return None


def _run(
    spec: TrainSpec, reporter: JsonlReporter, stop: StopFlag, checked: Checked | None, world: World
) -> RunFinished:
    if checked is None:
        return RunFinished(status="stopped", message="Stopped before the first step.")
    from worker.alignment.trainer import train

    return train(spec, reporter, should_stop=stop, checked=checked, world=world)


class StopFlag:
    """Set by SIGTERM or SIGINT: the step in hand is finished, a checkpoint saved, and the process exits 0."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> bool:
        return self._asked

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True


def classify(error: BaseException) -> tuple[Reason, str]:
    """The reason and one sentence for the user; the traceback went to stderr."""
    if isinstance(error, TrainingError):
        return error.reason, str(error)
    text = str(error)
    if is_out_of_memory(error):
        advice = "lower tokens_per_microbatch, max_length or lora.r, or use a smaller base model"
        return "out_of_memory", f"Memory ran out: {advice}."
    if (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or "No space left" in text:
        return (
            "disk_full",
            "The disk is full; free some space and start the run again: it goes on from the last checkpoint.",
        )
    first_line = text.strip().splitlines()[0] if text.strip() else "no message"
    return "unknown", f"The trainer stopped on an unexpected {type(error).__name__}: {first_line}"


def die_with_parent() -> None:
    """Linux: be killed when the process (strictly: the thread) that started this one ends. No trainer outlives its worker."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    libc: Any = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died in between
        os.kill(os.getpid(), signal.SIGKILL)
