"""The tables as they are today. Migrations build them; a test holds the two together."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

# The newest migration: a database at this revision is used without importing Alembic.
HEAD = "0003"

metadata = MetaData()

# One name that people use; ``active_version`` is the one that is meant when none is named.
models = Table(
    "models",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("active_version", Text, nullable=False),
)

# What a person said about one version; ``info`` is ModelInfo.to_dict().
versions = Table(
    "versions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model_id", Integer, ForeignKey("models.id", ondelete="CASCADE"), nullable=False),
    Column("version", Text, nullable=False),
    Column("file_path", Text, nullable=False, index=True),
    Column("info", JSON, nullable=False),
    UniqueConstraint("model_id", "version", name="uq_versions_model_version"),
)

# Another name of one version, such as ``stable``.
aliases = Table(
    "aliases",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model_id", Integer, ForeignKey("models.id", ondelete="CASCADE"), nullable=False),
    Column("alias", Text, nullable=False),
    Column("version", Text, nullable=False),
    UniqueConstraint("model_id", "alias", name="uq_aliases_model_alias"),
)

# Files that a person wants to stay in memory.
pins = Table(
    "pins",
    metadata,
    Column("path", Text, primary_key=True),
    Column("pinned_at", Float, nullable=False),
)

# Every file that was seen, as a scan compares it and as it is searched; valid while size and mtime_ns
# are the same. ``node`` is ``device:inode`` where the file system has one, ``digest`` that of a few
# samples, ``identity`` what its header says, ``problem`` why that cannot be read, ``reader`` who read it,
# ``text`` what it is found by: its name, its folder and what is said of it, in this order.
files = Table(
    "files",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("path", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("node", Text),
    Column("digest", Text),
    Column("folder", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("identity", JSON(none_as_null=True)),
    Column("problem", JSON(none_as_null=True)),
    Column("reader", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("seen_at", Float, nullable=False),
    Column("missing_since", Float),
    UniqueConstraint("path", name="uq_files_path"),
    Index("ix_files_text", "text", "folder", "missing_since"),  # holds all that a search looks at
    Index("ix_files_size", "size", "mtime_ns"),
)


def _of_a_file() -> tuple[Column[Any], ...]:
    """Return what says which file a row is about, and as it was when."""
    return (
        Column("path", Text, primary_key=True),
        Column("size", BigInteger, nullable=False),
        Column("mtime_ns", BigInteger, nullable=False),
    )


# Measured hashes, in lower-case hex.
hashes = Table(
    "hashes",
    metadata,
    *_of_a_file(),
    Column("sha256", Text, nullable=False, index=True),
    Column("measured_at", Float, nullable=False),
)

# What verifying a file found.
health = Table(
    "health",
    metadata,
    *_of_a_file(),
    Column("ok", Boolean, nullable=False),
    Column("details", JSON, nullable=False),
    Column("checked_at", Float, nullable=False),
)

# Where a file was fetched from.
sources = Table(
    "sources",
    metadata,
    *_of_a_file(),
    Column("url", Text, nullable=False),
    Column("sha256", Text),
    Column("etag", Text),
    Column("fetched_at", Float, nullable=False),
    Column("license", Text),
)

# What a file of ours was made from, as its metadata says.
variants = Table(
    "variants",
    metadata,
    *_of_a_file(),
    Column("format", Text, nullable=False),
    Column("source_name", Text, nullable=False),
    Column("source_sha256", Text, index=True),
)

# How often a file was loaded, and when last.
usage = Table(
    "usage",
    metadata,
    Column("path", Text, primary_key=True),
    Column("last_used_at", Float, nullable=False),
    Column("times", Integer, nullable=False),
)

# The most memory that prompts took which sampled with a file, by everything that changes it.
PEAK_KEY = ("path", "size", "mtime_ns", "options", "shape", "device", "comfyui_version", "torch_version")
peaks = Table(
    "peaks",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("path", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("options", Text, nullable=False),
    Column("shape", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("comfyui_version", Text, nullable=False),
    Column("torch_version", Text, nullable=False),
    Column("vram_bytes", BigInteger),
    Column("ram_bytes", BigInteger),
    Column("count", Integer, nullable=False),
    Column("seen_at", Float, nullable=False),
    UniqueConstraint(*PEAK_KEY, name="uq_peaks_key"),
)
