"""What a scan sees, hashes, health, sources, usage, pins, aliases, and what was made from what.

Revision ID: 0003
"""

import json
import ntpath

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade(op: Operations) -> None:
    _rebuild_files(op)
    op.create_table(
        "health",
        *_of_a_file(),
        sa.Column("ok", sa.Boolean, nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
        sa.Column("checked_at", sa.Float, nullable=False),
    )
    op.create_table(
        "sources",
        *_of_a_file(),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text),
        sa.Column("etag", sa.Text),
        sa.Column("fetched_at", sa.Float, nullable=False),
        sa.Column("license", sa.Text),
    )
    op.create_table(
        "variants",
        *_of_a_file(),
        sa.Column("format", sa.Text, nullable=False),
        sa.Column("source_name", sa.Text, nullable=False),
        sa.Column("source_sha256", sa.Text),
    )
    op.create_index("ix_variants_source_sha256", "variants", ["source_sha256"])
    op.create_table(
        "usage",
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("last_used_at", sa.Float, nullable=False),
        sa.Column("times", sa.Integer, nullable=False),
    )
    op.create_table(
        "pins",
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("pinned_at", sa.Float, nullable=False),
    )
    op.create_table(
        "aliases",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("model_id", sa.Integer, sa.ForeignKey("models.id", ondelete="CASCADE"), nullable=False),
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.UniqueConstraint("model_id", "alias", name="uq_aliases_model_alias"),
    )


def _of_a_file() -> list[sa.Column[object]]:
    return [
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("mtime_ns", sa.BigInteger, nullable=False),
    ]


def _rebuild_files(op: Operations) -> None:
    """Give files an id and what a scan compares; their hashes move to a table of their own."""
    op.create_table(
        "hashes",
        *_of_a_file(),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("measured_at", sa.Float, nullable=False),
    )
    op.create_index("ix_hashes_sha256", "hashes", ["sha256"])
    op.execute(
        "INSERT INTO hashes (path, size, mtime_ns, sha256, measured_at) "
        "SELECT path, size, mtime_ns, lower(sha256), seen_at FROM files WHERE sha256 IS NOT NULL"
    )
    op.rename_table("files", "files_before")
    op.create_table(
        "files",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("mtime_ns", sa.BigInteger, nullable=False),
        sa.Column("node", sa.Text),
        sa.Column("digest", sa.Text),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("identity", sa.JSON(none_as_null=True)),
        sa.Column("problem", sa.JSON(none_as_null=True)),
        sa.Column("reader", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("seen_at", sa.Float, nullable=False),
        sa.Column("missing_since", sa.Float),
        sa.UniqueConstraint("path", name="uq_files_path"),
    )
    rows = op.get_bind().execute(sa.text("SELECT path, size, mtime_ns, identity, seen_at FROM files_before"))
    insert = sa.text(
        "INSERT INTO files (path, size, mtime_ns, folder, name, identity, reader, text, seen_at) "
        "VALUES (:path, :size, :mtime_ns, '', :name, :identity, '', :text, :seen_at)"
    )
    for row in rows.all():
        name = ntpath.basename(row.path)  # knows both separators
        values = {"name": name, "text": _text(name, row.identity)}
        op.get_bind().execute(insert, {**row._mapping, **values})
    op.drop_table("files_before")
    op.create_index("ix_files_text", "files", ["text", "folder", "missing_since"])
    op.create_index("ix_files_size", "files", ["size", "mtime_ns"])


def _text(name: str, identity: str) -> str:
    """Return what a file is found by until a scan looks at it again."""
    try:
        title = str(json.loads(identity).get("title", ""))
    except (AttributeError, ValueError):
        title = ""
    return f"{name}\n\n{title}".casefold()
