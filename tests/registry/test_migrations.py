"""Migrations build exactly the tables that the code works with."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from managed_models.manager.files import FileIdentity
from managed_models.manager.registry import Registry, database, schema
from managed_models.manager.registry.database import open_database
from sqlalchemy import Engine, inspect

SCRIPTS = ScriptDirectory(str(Path(database.__file__).with_name("migrations")))
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["memory", "file"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    memory = request.param == "memory"
    found = open_database("sqlite://" if memory else f"sqlite:///{tmp_path / 'r.sqlite'}")
    yield found
    found.dispose()


def test_migrations_make_exactly_the_tables_of_the_schema(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
        assert set(inspect(connection).get_table_names()) == {*schema.metadata.tables, "alembic_version"}


def test_constraints_are_those_of_the_schema(engine: Engine) -> None:
    with engine.connect() as connection:
        found = inspect(connection)
        for name, table in schema.metadata.tables.items():
            unique = {tuple(c["column_names"]) for c in found.get_unique_constraints(name)}
            wanted = {
                tuple(column.name for column in constraint.columns)
                for constraint in table.constraints
                if type(constraint).__name__ == "UniqueConstraint"
            }
            assert unique == wanted, name
            assert {tuple(k["options"].items()) for k in found.get_foreign_keys(name)} == {
                (("ondelete", key.ondelete),) for key in table.foreign_keys
            }, name
            for column in found.get_columns(name):
                assert column["nullable"] == table.c[column["name"]].nullable, column["name"]


def test_the_schema_names_the_newest_migration() -> None:
    assert SCRIPTS.get_heads() == [schema.HEAD]


def test_a_new_database_is_at_the_newest_migration(engine: Engine) -> None:
    with engine.connect() as connection:
        assert MigrationContext.configure(connection).get_current_heads() == (schema.HEAD,)


def test_migrations_stand_in_one_line() -> None:
    revisions = list(SCRIPTS.walk_revisions())
    assert revisions
    assert [r.down_revision for r in revisions] == [*(r.revision for r in revisions[1:]), None]


def test_opening_twice_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    open_database(f"sqlite:///{path}").dispose()
    first = path.read_bytes()
    open_database(f"sqlite:///{path}").dispose()
    assert path.read_bytes() == first


def test_a_file_is_kept_so_that_readers_never_wait_for_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    registry = Registry(f"sqlite:///{path}")
    registry.names()
    writer = sqlite3.connect(path, isolation_level=None)
    assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO models (name, active_version) VALUES ('x', '1')")
    assert registry.names() == []
    writer.execute("COMMIT")
    assert registry.names() == ["x"]
    writer.close()
    registry.close()


def test_a_database_at_the_newest_migration_is_used_without_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'r.sqlite'}"
    open_database(url).dispose()
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("managed_models", {str(ROOT / "__init__.py")!r})
module = sys.modules["managed_models"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from managed_models.manager.registry import Registry
print(Registry({url!r}).names(), "alembic" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"


def at_revision(path: Path, revision: str, monkeypatch: pytest.MonkeyPatch) -> sqlite3.Connection:
    """Make a database as an earlier version of Managed Models left it, and open it for writing."""
    with monkeypatch.context() as patch:
        everything = ScriptDirectory._upgrade_revs
        patch.setattr(ScriptDirectory, "_upgrade_revs", lambda self, _, at: everything(self, revision, at))
        open_database(f"sqlite:///{path}").dispose()
    writer = sqlite3.connect(path)
    assert writer.execute("SELECT version_num FROM alembic_version").fetchone() == (revision,)
    return writer


INFO = {"name": "x", "model_type": "vae", "file_path": "/m/a.safetensors", "version": "1", "tags": ["t"]}


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_an_older_database_is_brought_up_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    path = tmp_path / "r.sqlite"
    writer = at_revision(path, revision, monkeypatch)
    writer.execute("INSERT INTO models (name, active_version) VALUES ('x', '1')")
    writer.execute(
        "INSERT INTO versions (model_id, version, file_path, info) VALUES (1, '1', '/m/a.safetensors', ?)",
        (json.dumps(INFO),),
    )
    identity = {"title": "Wan 2.1", "precision": "bf16"}
    writer.executemany(
        "INSERT INTO files (path, size, mtime_ns, identity, sha256, seen_at) VALUES (?, 10, 20, ?, ?, 5.5)",
        [
            ("/m/a.safetensors", json.dumps(identity), "AB" * 32),
            ("C:\\m\\b.safetensors", "[]", None),
        ],
    )
    if revision == "0002":
        writer.execute(
            "INSERT INTO peaks (path, size, mtime_ns, options, shape, device, comfyui_version, torch_version,"
            " ram_bytes, count, seen_at) "
            "VALUES ('/m/a.safetensors', 10, 20, '', '1', 'cpu', '1', '2', 7, 1, 5.5)"
        )
    writer.commit()
    writer.close()
    registry = Registry(f"sqlite:///{path}")
    file = FileIdentity.recorded("/m/a.safetensors", 10, 20)
    assert registry.names() == ["x"]
    info = registry.get("x")
    assert info is not None
    assert info.tags == ["t"]
    assert registry.facts(file) == identity
    assert registry.sha256(file) == "ab" * 32
    assert [f.path.name for f, _ in registry.known_files()] == ["a.safetensors", "C:\\m\\b.safetensors"]
    assert [row.name for row in registry.search("wan").rows] == ["a.safetensors"]
    assert [row.name for row in registry.search("b.safe").rows] == ["b.safetensors"]
    assert [peak.ram_bytes for peak in registry.peaks(file)] == ([7] if revision == "0002" else [])
    assert [(r.complete, r.digest) for r in registry.records("any")] == [(False, None)] * 2
    registry.close()


def test_a_kill_while_it_is_brought_up_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.sqlite"
    writer = at_revision(path, "0002", monkeypatch)
    writer.execute(
        "INSERT INTO files (path, size, mtime_ns, identity, seen_at) VALUES ('/m/a', 1, 2, '{}', 3)"
    )
    writer.commit()
    writer.close()
    code = f"""
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("managed_models", {str(ROOT / "__init__.py")!r})
module = sys.modules["managed_models"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from alembic.operations import Operations
from managed_models.manager.registry.database import open_database
drop = Operations.drop_table
def die(self, *args, **kwargs):
    drop(self, *args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
Operations.drop_table = die
open_database({f"sqlite:///{path}"!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr == ""
    db = sqlite3.connect(path)
    assert db.execute("SELECT version_num FROM alembic_version").fetchone() == ("0002",)
    assert db.execute("SELECT path FROM files").fetchall() == [("/m/a",)]
    db.close()
    registry = Registry(f"sqlite:///{path}")
    assert [str(file.path) for file, _ in registry.known_files()] == [str(Path("/m/a"))]
    registry.close()
