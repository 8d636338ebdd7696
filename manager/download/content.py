"""Is what arrives the kind of file that its name says? Asked as soon as the bytes that tell are here."""

from __future__ import annotations

from pathlib import Path, PurePath

from ..errors import InvalidGguf, NotSafetensors
from ..formats.gguf import MAX_HEADER_BYTES, ShortRead, gguf_from_bytes, looks_like_gguf
from ..formats.safetensors import header_end, header_from_bytes
from ..formats.sniff import SNIFF_BYTES, describe_foreign

SAFETENSORS_SUFFIXES = frozenset({".safetensors", ".sft"})
GGUF_SUFFIX = ".gguf"
SAFE_SUFFIXES = SAFETENSORS_SUFFIXES | {GGUF_SUFFIX}
_FIRST_GGUF_BYTES = 1 << 20
# What no model file of any kind begins like.
_NO_MODEL = (
    "an empty file",
    "a Git LFS pointer",
    "a PNG",
    "a JPEG",
    "a PDF",
    "a web page",
    "a JSON",
    "a file of zeros",
)


class ContentCheck:
    """Looks at the front of one file as it grows.

    Args:
        name: the final name, whose suffix says what is expected.
        path: where the bytes are.
    """

    def __init__(self, name: str, path: Path) -> None:
        self._name = Path(name)
        self._path = path
        self._suffix = PurePath(name).suffix.lower()
        self._next = SNIFF_BYTES
        self._done = False

    def look(self, front: int, total: int | None) -> None:
        """Look again when enough has arrived since the last time.

        Args:
            front: how many bytes are here from the first one on.
            total: of the whole file, None while nobody knows.

        Raises:
            FileError: it is another kind of file, or broken.
        """
        whole = total is not None and front >= total
        while not self._done and (whole or front >= self._next):
            start = self._read(min(front, self._next))
            if self._suffix in SAFETENSORS_SUFFIXES:
                self._look_safetensors(start, total)
            elif self._suffix == GGUF_SUFFIX:
                self._look_gguf(start, total)
            else:
                refuse_no_model(self._name.name, start)
                self._done = True

    def finish(self, total: int) -> None:
        """Check the header in full, now that every byte is here.

        Raises:
            FileError: see :meth:`look`.
        """
        self._done = False
        self._next = SNIFF_BYTES
        self.look(total, total)

    def _read(self, size: int) -> bytes:
        with open(self._path, "rb") as file:
            return file.read(min(size, MAX_HEADER_BYTES + 8))

    def _look_safetensors(self, start: bytes, total: int | None) -> None:
        end = header_end(self._name, start, total)
        if len(start) >= end:
            header_from_bytes(self._name, start, total, in_file=False)
            self._done = True
        self._next = end

    def _look_gguf(self, start: bytes, total: int | None) -> None:
        if not looks_like_gguf(start):
            foreign = describe_foreign(start) or "a safetensors file"
            raise InvalidGguf(
                f"{self._name.name} is not a GGUF file: it looks like {foreign}.",
                "Check the address, and that the name ends like the file it leads to.",
                problem="foreign",
            )
        try:
            gguf_from_bytes(self._name, start, total)
            self._done = True
        except ShortRead:
            if total is not None and len(start) >= total:
                raise InvalidGguf(
                    f"{self._name.name} is a broken GGUF file: it ends inside its header.",
                    "It is damaged there.",
                    problem="truncated",
                ) from None
            self._next = max(_FIRST_GGUF_BYTES, len(start) * 4)
            if self._next > MAX_HEADER_BYTES:
                self._done = True


def refuse_no_model(name: str, start: bytes) -> None:
    """Refuse what cannot be a model of any kind.

    Raises:
        NotSafetensors: the message says what it looks like.
    """
    foreign = describe_foreign(start[:SNIFF_BYTES])
    if foreign and foreign.startswith(_NO_MODEL):
        raise NotSafetensors(
            f"{name} is no model file: it looks like {foreign}.",
            "Give the address of the download itself.",
            looks_like=foreign,
        )
