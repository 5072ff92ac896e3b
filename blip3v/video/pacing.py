"""Frames at the speed of the clock: what comes too fast waits, what nobody has time for is dropped."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator

from blip3v.video.stream import TimedFrame


class LatestFrames:
    """Reads frames in a thread and keeps the newest few, as a camera that does not wait for its reader.

    Memory stays constant and the reader never falls behind by more than `keep` frames; it misses those in
    between, which `dropped` counts. An error of the source is raised where its frame would have come.

    Args:
        frames: the source; it is read to its end, or until `close`.
        keep: frames that may wait to be read.
        pace: hand a frame on no earlier than its time, counted from the first one; for files that should run
            as if they were live.
    """

    def __init__(self, frames: Generator[TimedFrame, None, None], keep: int = 8, pace: bool = False) -> None:
        self.dropped = 0
        self._frames, self._keep, self._pace = frames, keep, pace
        self._waiting: deque[TimedFrame] = deque()
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._ended = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="blip3v-frames", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[TimedFrame]:
        while True:
            with self._changed:
                # Not for ever: a thread that waits without limit does not see Ctrl-C on every platform.
                while not (self._waiting or self._ended):
                    self._changed.wait(0.5)
                if not self._waiting:
                    break
                frame = self._waiting.popleft()
            yield frame
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Ends the thread; one that waits for a source that is silent ends when the source speaks."""
        self._closed.set()
        self._thread.join(timeout=2.0)

    def _read(self) -> None:
        begin: float | None = None
        try:
            for frame in self._frames:
                begin = time.monotonic() - frame.time if begin is None else begin
                early = begin + frame.time - time.monotonic() if self._pace else 0.0
                if self._closed.wait(max(early, 0.0)):
                    break
                self._hand_on(frame)
        except BaseException as error:  # whatever it is, the reader must get it instead of waiting for ever
            self._failure = error
        self._frames.close()
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _hand_on(self, frame: TimedFrame) -> None:
        with self._changed:
            self._waiting.append(frame)
            if len(self._waiting) > self._keep:
                self._waiting.popleft()
                self.dropped += 1
            self._changed.notify()
