"""Migrations build exactly the tables that the code works with."""

from __future__ import annotations

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


def test_a_database_of_the_first_version_is_brought_up_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.sqlite"
    with monkeypatch.context() as patch:
        first = SCRIPTS.get_base()
        everything = ScriptDirectory._upgrade_revs
        patch.setattr(ScriptDirectory, "_upgrade_revs", lambda self, _, at: everything(self, first, at))
        open_database(f"sqlite:///{path}").dispose()
    writer = sqlite3.connect(path)
    assert writer.execute("SELECT version_num FROM alembic_version").fetchone() == (first,)
    writer.execute("INSERT INTO models (name, active_version) VALUES ('x', '1')")
    writer.commit()
    writer.close()
    registry = Registry(f"sqlite:///{path}")
    assert registry.names() == ["x"]
    assert registry.peaks(FileIdentity(path, 1, 1)) == []
    registry.close()
