"""What becomes of a worker's blocks: pieces of the output's tensors, written by a thread beside it."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from .direct import Output
from .journal import TensorState
from .kernels import Error
from .partial import PartialFile
from .policy import TensorPlan

# Pieces of a block below this are not worth a write of their own.
_SMALL_BYTES = 16 << 10


@dataclass
class Totals:
    """What all workers did so far, in bytes of the source.

    Attributes:
        computed: converted or copied.
        resumed: what an earlier run had written.
        reread: what was looked at once more, because its tensor was interrupted before.
        layer: the tensor that was last begun.
    """

    total: int
    computed: int = 0
    resumed: int = 0
    reread: int = 0
    layer: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, computed: int = 0, reread: int = 0) -> None:
        """Count more; several threads do."""
        with self._lock:
            self.computed += computed
            self.reread += reread

    @property
    def done(self) -> int:
        return self.computed + self.resumed


class WriteBehind:
    """A thread that writes blocks in the order in which they come, while the next ones are computed.

    Args:
        slots: how many blocks there may be at a time, the one that is being computed among them.
    """

    def __init__(self, slots: int) -> None:
        self._thread = ThreadPoolExecutor(1, "managed-models-write")
        self._writing: list[Future[None] | None] = [None] * slots
        self._next = 0
        self._failed = False

    def free_slot(self) -> int:
        """Wait until the next slot may be filled anew, and return its number.

        Raises:
            What went wrong when its last block was written.
        """
        self._wait(self._next)
        return self._next

    def submit(self, write: Callable[[], None]) -> None:
        """Have the block in the slot that was free last written, unless one before it failed."""
        self._writing[self._next] = self._thread.submit(self._write, write)
        self._next = (self._next + 1) % len(self._writing)

    def finish(self) -> None:
        """Wait until everything is written; raises what went wrong first."""
        for step in range(len(self._writing)):
            self._wait((self._next + step) % len(self._writing))

    def close(self) -> None:
        """Let a write that has begun come to its end; what waits is not written any more."""
        self._thread.shutdown(cancel_futures=True)

    def _write(self, write: Callable[[], None]) -> None:
        if self._failed:  # it would land in the place of the one that is missing
            return
        try:
            write()
        except BaseException:
            self._failed = True
            raise

    def _wait(self, slot: int) -> None:
        writing, self._writing[slot] = self._writing[slot], None
        if writing is not None:
            writing.result()


class Outputs:
    """The tensors that one tensor becomes, as far as they are written.

    Args:
        number: of the source's tensor.
        output: the file, for one thread.
    """

    def __init__(
        self, number: int, plan: TensorPlan, partial: PartialFile, output: Output, totals: Totals
    ) -> None:
        self._number = number
        self._partial = partial
        self._output = output
        self._totals = totals
        self.specs = plan.outputs()
        empty = (0,) * len(self.specs)
        self.state = partial.states.get(number) or TensorState(0, empty, empty)

    @property
    def start(self) -> int:
        """Where in the file the first output begins."""
        return self._partial.layout.offsets[self.specs[0].name][0]

    def write(
        self, pieces: Sequence[memoryview | bytes], error: Error, count: int, last: bool = False
    ) -> None:
        """Append a piece to each output; one that is complete already stays as it is.

        Small pieces go to the journal until the last block, see there.

        Args:
            count: bytes of the source that these are.
            last: whether no block follows.
        """
        partial = self._partial
        written, checksums = list(self.state.written), list(self.state.checksums)
        pending = list(self.state.pending or [b""] * len(pieces))
        added = [b""] * len(pieces)
        size = 0
        for i, (spec, piece) in enumerate(zip(self.specs, pieces, strict=True)):
            view = memoryview(piece)
            start, end = partial.layout.offsets[spec.name]
            place = start + written[i]
            if place + len(pending[i]) == end:
                view = view[:0]
            if place + len(pending[i]) + len(view) > end:
                raise ValueError(f"tensor {spec.name!r} takes {spec.nbytes} bytes, and more were encoded")
            checksums[i] = zlib.crc32(view, checksums[i])
            if i and not last and len(view) < _SMALL_BYTES:
                added[i] = bytes(view)
                pending[i] += added[i]
                continue
            if pending[i]:
                view = memoryview(pending[i] + bytes(view))
                pending[i] = b""
            partial.write(self._output, place, view)
            written[i] += len(view)
            size += len(view)
        self.state = TensorState(
            self.state.blocks + 1,
            tuple(written),
            tuple(checksums),
            self.state.noise + error.noise,
            self.state.signal + error.signal,
            tuple(pending),
        )
        partial.note(self._number, self.state, size, added)
        self._totals.add(count)
        if last:
            self.check_complete()

    def check_complete(self) -> None:
        """Raise ValueError when an encoder left out a part of a tensor."""
        for spec, count in zip(self.specs, self.state.written, strict=True):
            if count != spec.nbytes:
                raise ValueError(f"tensor {spec.name!r} takes {spec.nbytes} bytes, and {count} were encoded")
