"""Opening the registry's SQLite file: pragmas, and migrations under a file lock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, inspect, text
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError
from sqlalchemy.pool import StaticPool

from ..errors import BadInput, FileError
from .schema import HEAD

_BUSY_MILLISECONDS = 10_000
_LOCK_SECONDS = 60
_MIGRATIONS = Path(__file__).with_name("migrations")


def open_database(url: str) -> Engine:
    """Open the SQLite database at ``url``, made or migrated as needed.

    Raises:
        BadInput: the address is not an SQLite one.
        FileError: the file is no database, cannot be written, or is from a newer version.
    """
    path = database_path(url)
    if path is None:
        engine = create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
        _set_pragmas(engine, wal=False)
        _migrate(engine)
        return engine
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(make_url(url).set(database=str(path)))
        _set_pragmas(engine, wal=True)
        # Also to look: a database that is being made by another process may not be opened at all.
        with FileLock(f"{path}.lock", timeout=_LOCK_SECONDS):
            if _revision(engine) != HEAD:
                _migrate(engine)
    except (OSError, DatabaseError) as error:
        raise unusable(path, error) from error
    return engine


def unusable(path: Path, error: OSError | DatabaseError) -> FileError:
    """Return our error for a database that cannot be opened or read."""
    reason = str(getattr(error, "orig", None) or error)
    if "locked" in reason:
        return FileError(
            f"The registry {path} is in use: another process has been writing to it for a long time.",
            "Try again when that is done.",
        )
    return FileError(
        f"The registry {path} cannot be opened: {reason}.",
        "Check who may write there; if it is damaged, move it away: a new one is made.",
    )


def database_path(url: str) -> Path | None:
    """Return the file that ``url`` names, None for a database in memory."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise BadInput(f"{url!r} is not a database address.", "Use sqlite:///path/to/file.db.") from None
    if parsed.get_backend_name() != "sqlite":
        raise BadInput(f"{url!r} is not an SQLite address.", "Use sqlite:///path/to/file.db.")
    if parsed.database in (None, "", ":memory:"):
        return None
    return Path(parsed.database).expanduser()


def _set_pragmas(engine: Engine, wal: bool) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA busy_timeout={_BUSY_MILLISECONDS}")
        if wal:
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()


def _revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _migrate(engine: Engine) -> None:
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(_MIGRATIONS))
    with engine.begin() as connection:
        # Python's driver begins no transaction for DDL by itself: a run that is killed here leaves nothing.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        _refuse_newer(connection, {script.revision for script in scripts.walk_revisions()})
        context = MigrationContext.configure(
            connection,
            opts={"fn": lambda revision, _: scripts._upgrade_revs("head", revision)},
        )
        context.run_migrations(op=Operations(context))


def _refuse_newer(connection: Connection, known: set[str]) -> None:
    if not inspect(connection).has_table("alembic_version"):
        return
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if found is not None and found not in known:
        raise FileError(
            f"The registry {connection.engine.url.database} was made by a newer version of Managed Models.",
            "Update Managed Models, or set MANAGED_MODELS_DB to another file.",
        )
