"""What prompts took at most.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade(op: Operations) -> None:
    op.create_table(
        "peaks",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("mtime_ns", sa.BigInteger, nullable=False),
        sa.Column("options", sa.Text, nullable=False),
        sa.Column("shape", sa.Text, nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("comfyui_version", sa.Text, nullable=False),
        sa.Column("torch_version", sa.Text, nullable=False),
        sa.Column("vram_bytes", sa.BigInteger),
        sa.Column("ram_bytes", sa.BigInteger),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("seen_at", sa.Float, nullable=False),
        sa.UniqueConstraint(
            "path",
            "size",
            "mtime_ns",
            "options",
            "shape",
            "device",
            "comfyui_version",
            "torch_version",
            name="uq_peaks_key",
        ),
    )
