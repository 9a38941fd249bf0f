"""The queue and the thread that empties it: batches, retries, and the bookkeeping of what was sent, waits or was dropped."""

from __future__ import annotations

import atexit
import logging
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kto_studio_client._items import Item
from kto_studio_client._wire import Answer, Wire

log = logging.getLogger("kto_studio_client")

FIRST_PAUSE, LONGEST_PAUSE, LONGEST_ASKED = 0.5, 30.0, 300.0
"""Seconds between tries, doubled each time, half of it by chance; a server's Retry-After counts up to five minutes."""
WARN_SECONDS = 60.0


@dataclass(frozen=True)
class Drop:
    """Something that was not stored, and why."""

    kind: str
    """completion, feedback or retract."""
    item: str
    """JSON as it would have been sent; of a retraction the feedback's id."""
    reason: str


@dataclass
class Options:
    max_items: int = 500
    max_bytes: int = 3_000_000
    """Of one request."""
    max_age: float = 1.0
    """Seconds that the first of a batch waits for company."""
    queue_items: int = 10_000
    queue_bytes: int = 64_000_000
    exit_timeout: float = 5.0
    """Seconds that the end of the process waits for what is not sent yet."""
    on_drop: Callable[[Drop], None] | None = None
    on_error: Callable[[Exception], None] | None = None


@dataclass
class _State:
    """All of it is new in a forked child: what waited is the parent's to send."""

    items: deque[Item] = field(default_factory=deque)
    changed: threading.Condition = field(default_factory=threading.Condition)
    thread: threading.Thread | None = None
    num_bytes: int = 0
    oldest: float = 0.0
    taken: int = 0
    """Ever put into the queue."""
    settled: int = 0
    """Of these: sent or dropped."""
    urgent: int = 0
    """Up to here someone waits in ``flush``."""
    closed: bool = False


class Engine:
    def __init__(self, wire: Wire, options: Options) -> None:
        self.wire = wire
        self.options = options
        self.sent = 0
        self.dropped = 0
        self._warned_at = float("-inf")
        self._unwarned = 0
        self._state = _State()
        _engines.add(self)

    @property
    def waiting(self) -> int:
        return self._state.taken - self._state.settled

    def put(self, item: Item) -> None:
        """Never waits, never raises."""
        state, refused = self._state, ""
        size = len(item.text)
        with state.changed:
            if state.closed:
                refused = "the client is closed"
            elif len(state.items) >= self.options.queue_items or state.num_bytes + size > self.options.queue_bytes:
                refused = "the queue is full"
            else:
                if not state.items:
                    state.oldest = time.monotonic()
                state.items.append(item)
                state.num_bytes += size
                state.taken += 1
                self._ensure_thread(state)
                state.changed.notify_all()
        if refused:
            self.drop(item, refused)

    def drop(self, item: Item, reason: str) -> None:
        with self._state.changed:
            self.dropped += 1
            self._unwarned += 1
            unwarned, now = self._unwarned, time.monotonic()
            is_due = now - self._warned_at >= WARN_SECONDS
            if is_due:
                self._warned_at, self._unwarned = now, 0
        if is_due:
            log.warning("%d not stored, the last a %s: %s", unwarned, item.kind, reason)
        self._tell(self.options.on_drop, Drop(item.kind, item.text, reason))

    def _tell(self, listener: Callable[[Any], None] | None, what: Any) -> None:
        if listener is None:
            return
        try:
            listener(what)
        except Exception:
            log.exception("A listener of the KTO Studio client failed")

    def flush(self, timeout: float) -> bool:
        """Whether everything put so far is settled (stored, or told as dropped) within ``timeout`` seconds."""
        state = self._state
        end = time.monotonic() + timeout
        with state.changed:
            target = state.urgent = state.taken
            if state.settled < target:
                self._ensure_thread(state)
            state.changed.notify_all()
            while state.settled < target:
                left = end - time.monotonic()
                if left <= 0:
                    return False
                state.changed.wait(left)
        return True

    def close(self, timeout: float) -> bool:
        """Flush, then take nothing more; what could not be sent is told as dropped. Twice is harmless."""
        done = self.flush(timeout)
        state = self._state
        with state.changed:
            state.closed = True
            left = list(state.items)
            state.items.clear()
            state.settled += len(left)
            state.num_bytes = 0
            state.changed.notify_all()
        for item in left:
            self.drop(item, "the client was closed before it could be sent")
        return done

    def _ensure_thread(self, state: _State) -> None:
        if state.thread is not None and state.thread.is_alive():
            return
        state.thread = threading.Thread(target=self._run, args=(state,), name="kto-studio-client", daemon=True)
        try:
            state.thread.start()
        except RuntimeError as error:  # the interpreter is ending
            state.thread = None
            log.warning("The KTO Studio client cannot start its thread: %s", error)

    def _run(self, state: _State) -> None:
        while True:
            with state.changed:
                batch = self._next_batch(state)
            if batch is None:
                self.wire.close()
                return
            try:
                self._send(state, batch)
            except Exception as error:
                log.exception("The KTO Studio client failed on a batch")
                self._settle(state, batch, f"the client failed: {error!r}")

    def _next_batch(self, state: _State) -> list[Item] | None:
        """Waits until a batch is full, old enough or asked for. None: closed. Holds the lock; the items stay in the queue."""
        while True:
            if state.closed:
                return None
            batch = self._head(state)
            if batch:
                is_full = len(batch) >= self.options.max_items or len(batch) < len(state.items)
                left = state.oldest + self.options.max_age - time.monotonic()
                if is_full or left <= 0 or state.settled < state.urgent:
                    return batch
                state.changed.wait(left)
            else:
                state.changed.wait()

    def _head(self, state: _State) -> list[Item]:
        """The longest run of one kind at the head of the queue that fits one request: the order is kept."""
        batch: list[Item] = []
        size = 0
        for item in state.items:
            size += len(item.text) + 1
            if batch and (item.kind != batch[0].kind or size > self.options.max_bytes or item.kind == "retract"):
                break
            batch.append(item)
            if len(batch) >= self.options.max_items:
                break
        return batch

    def _settle(self, state: _State, batch: list[Item], reason: str = "", errors: dict[int, str] | None = None) -> None:
        """These are done with: stored, but for those with a reason."""
        with state.changed:
            if state.closed:
                return  # close() has told what became of them
            for _ in batch:
                state.num_bytes -= len(state.items.popleft().text)
            state.oldest = time.monotonic()
        failed = errors or {}
        for index, item in enumerate(batch):
            if reason or index in failed:
                self.drop(item, reason or failed[index])
            else:
                self.sent += 1
        with state.changed:
            state.settled += len(batch)
            state.changed.notify_all()

    def _send(self, state: _State, batch: list[Item]) -> None:
        """One batch until the server has taken or refused it. The same key at every try: it is stored once."""
        tries, told = 0, False
        key = self.wire.new_key()
        while not state.closed:
            answer = self.wire.send(batch, key)
            if answer.too_large and len(batch) > 1:
                half = len(batch) // 2
                self._send(state, batch[:half])
                self._send(state, batch[half:])
                return
            if not answer.retry or (answer.conflict and tries >= 5):
                self._settle(state, batch, answer.reason, answer.errors)
                return
            tries += 1
            if not told:
                log.warning("KTO Studio did not take a batch, it is tried again: %s", answer.reason)
                told = True
            self._tell(self.options.on_error, answer.cause or RuntimeError(answer.reason))
            self._pause(state, tries, answer)

    def _pause(self, state: _State, tries: int, answer: Answer) -> None:
        longest = min(FIRST_PAUSE * 2 ** min(tries - 1, 10), LONGEST_PAUSE)
        seconds = max(random.uniform(longest / 2, longest), min(answer.retry_after, LONGEST_ASKED))
        end = time.monotonic() + seconds
        with state.changed:
            while not state.closed and (left := end - time.monotonic()) > 0:
                state.changed.wait(left)

    def after_fork(self) -> None:
        self._state = _State(closed=self._state.closed)
        self.sent = self.dropped = 0
        self.wire.forget()


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _after_fork() -> None:
    for engine in list(_engines):
        engine.after_fork()


def _at_exit() -> None:
    for engine in list(_engines):
        engine.close(engine.options.exit_timeout)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
