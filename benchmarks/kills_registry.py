"""Scans and registrations that are killed at random moments: is anything lost, doubled or half?

.venv/bin/python benchmarks/kills_registry.py [--count 100] [--files 400] [--seed 1]
"""

from __future__ import annotations

import argparse
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, load_checkout

load_checkout()

from managed_models.manager.host import ModelFolder  # noqa: E402
from managed_models.manager.local_host import LocalHost  # noqa: E402
from managed_models.manager.registry import Registry  # noqa: E402
from managed_models.manager.scan import Scanner  # noqa: E402
from scan import make_set  # noqa: E402

BOOT = f"""
import sys
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
from common import load_checkout
load_checkout()
from pathlib import Path
from managed_models.manager.host import ModelFolder
from managed_models.manager.local_host import LocalHost
from managed_models.manager.model import ModelInfo, ModelType
from managed_models.manager.registry import Registry
from managed_models.manager.scan import Scanner, service
registry = Registry(sys.argv[1])
registry.names()
print("ready", flush=True)
"""
SCAN = (
    BOOT
    + """
service._STEP = 16
root = Path(sys.argv[2])
Scanner(LocalHost([ModelFolder(k.name, k) for k in sorted(root.iterdir())]), registry).scan()
"""
)
REGISTER = (
    BOOT
    + """
start = int(sys.argv[2])
for number in range(start, start + 100_000):
    registry.put(ModelInfo("ink", ModelType.LORA, Path(f"/m/{number}"), version=f"1.{number}"))
    print(number, flush=True)
"""
)


class Wrong(Exception):
    """Something was lost, or is half."""


def kill_after(seconds: float, code: str, *arguments: str) -> tuple[bool, list[str]]:
    """Run a process, and kill it ``seconds`` after it is ready; return whether it was, and what it said."""
    command = [sys.executable, "-c", code, *arguments]
    # Unbuffered: what readline read ahead, communicate would not give back.
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    assert child.stdout is not None
    if child.stdout.readline() != b"ready\n":
        raise Wrong(child.communicate()[1].decode())
    killed = False
    try:
        said, errors = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        said, errors = child.communicate()
        killed = True
    if not killed and child.returncode:
        raise Wrong(errors.decode())
    return killed, said.decode().split()


def check(database: Path) -> int:
    """Look at the whole database; return how many files are recorded."""
    db = sqlite3.connect(database)
    try:
        if db.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            raise Wrong(f"{database} is damaged")
        half = db.execute("SELECT count(*) FROM files WHERE identity IS NULL OR digest IS NULL").fetchone()[0]
        if half:
            raise Wrong(f"{half} files are recorded by half")
        return int(db.execute("SELECT count(*) FROM files").fetchone()[0])
    finally:
        db.close()


def scans(folder: Path, files: int, count: int, chance: random.Random) -> int:
    """Kill ``count`` scans; each database goes on until its scan is whole, and then a new one begins."""
    root = folder / "models"
    make_set(root, files)
    host = LocalHost([ModelFolder(path.name, path) for path in sorted(root.iterdir())])
    kills = whole = 0
    database = folder / f"scan_{whole}.sqlite"
    recorded = 0
    while kills < count:
        killed, _ = kill_after(chance.uniform(0.0, 0.4), SCAN, f"sqlite:///{database}", str(root))
        kills += killed
        now = check(database)
        if now < recorded:
            raise Wrong(f"{recorded} files were recorded, and {now} are")
        recorded = now
        if not killed:
            registry = Registry(f"sqlite:///{database}")
            result = Scanner(host, registry).scan()
            registry.close()
            if (result.unchanged, recorded) != (files, files):
                raise Wrong(f"{result.unchanged} of {files} files are unchanged after a whole scan")
            whole += 1
            database, recorded = folder / f"scan_{whole}.sqlite", 0
    print(f"{kills} scans of {files} files killed, {whole} went on to their end: nothing was lost")
    return kills


def registrations(folder: Path, count: int, chance: random.Random) -> int:
    """Kill ``count`` processes that register one version after the other into one database."""
    database = folder / "register.sqlite"
    registry = Registry(f"sqlite:///{database}")
    said: list[str] = []
    kills = unsaid = 0
    while kills < count:
        start = len(registry.versions("ink"))
        killed, more = kill_after(chance.uniform(0.0, 0.15), REGISTER, f"sqlite:///{database}", str(start))
        kills += killed
        said += [f"1.{number}" for number in more]
        check(database)
        found = registry.versions("ink")
        missing = set(said) - set(found)
        if missing:
            raise Wrong(f"{sorted(missing)} were registered and are lost")
        if len(found) - start > len(more) + 1:
            raise Wrong("more was registered than was said")
        unsaid += len(found) - start - len(more)
        if any(registry.get("ink", version) is None for version in found[start:]):
            raise Wrong("a version has no facts")
    registry.close()
    print(
        f"{kills} registering processes killed: {len(said)} versions were said to be registered, all are; "
        f"{unsaid} more were registered when the kill came before the word"
    )
    return kills


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--files", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="kills-benchmark-"))
    try:
        kills = scans(folder, options.files, options.count // 2, chance)
        kills += registrations(folder, options.count - options.count // 2, chance)
    except Wrong as error:
        print(f"MISS  {error}")
        return 1
    finally:
        shutil.rmtree(folder)
    print(f"ok    {kills} kills lost nothing")
    return 0


if __name__ == "__main__":
    sys.exit(main())
