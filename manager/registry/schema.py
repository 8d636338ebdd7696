"""The tables as they are today. Migrations build them; a test holds the two together."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

# The newest migration: a database at this revision is used without importing Alembic.
HEAD = "0002"

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

# What was read from a file's header, valid while size and mtime_ns are the same.
files = Table(
    "files",
    metadata,
    Column("path", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("identity", JSON, nullable=False),
    Column("sha256", Text),
    Column("seen_at", Float, nullable=False),
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
