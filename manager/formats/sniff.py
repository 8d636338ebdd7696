"""What a file looks like from its first bytes, when it is not the safetensors file it should be."""

from __future__ import annotations

SNIFF_BYTES = 64
GGUF_FILE = "a GGUF file"

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a PyTorch pickle checkpoint or another zip archive"),
    (b"GGUF", GGUF_FILE),
    (b"version https://git-lfs", "a Git LFS pointer: the model itself was never downloaded"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
)


def describe_foreign(start: bytes) -> str | None:
    """Return what the first bytes look like, or None when they could be safetensors.

    Args:
        start: the first bytes of the file, 9 or more where the file has them.
    """
    if not start:
        return "an empty file"
    for signature, words in _SIGNATURES:
        if start.startswith(signature):
            return words
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page: the address asked for a login, or led to a page instead of the file"
    if start[0] == 0x80 and len(start) > 1 and 2 <= start[1] <= 5:
        return "a PyTorch pickle checkpoint"
    if text.startswith((b"{", b"[")):
        return "a JSON document"
    if not any(start):
        return "a file of zeros: a download that was reserved but never written"
    if len(start) > 8 and start[8:9] != b"{":
        return "some other kind of file"
    return None
