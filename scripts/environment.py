"""The checkout's own Python environment, made on first use. Standard library only."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
OLDEST = (3, 10)
_CONSTRAINTS = ROOT / "scripts" / "constraints.txt"


def ensure_environment(extras: str) -> Path:
    """Install this checkout with ``extras`` (such as ``torch,test``) into .venv; return its bin folder.

    Nothing is installed again while pyproject.toml and the constraints stay the same.
    """
    if sys.version_info < OLDEST:
        sys.exit(
            f"Managed Models needs Python {OLDEST[0]}.{OLDEST[1]} or newer; this is {sys.version.split()[0]}."
        )
    binaries = VENV / ("Scripts" if os.name == "nt" else "bin")
    wanted = set(extras.split(","))
    state = hashlib.sha256()
    for path in (ROOT / "pyproject.toml", _CONSTRAINTS):
        state.update(path.read_bytes())
    state.update(str(ROOT).encode())
    stamp = VENV / "installed.txt"  # the state of what was installed, then the extras
    installed = stamp.read_text().split() if stamp.is_file() else []
    if installed[:1] == [state.hexdigest()] and wanted.issubset(installed[1:]):
        return binaries
    print(f"Setting up {VENV} (once; PyTorch is the large part)...", file=sys.stderr, flush=True)
    if not binaries.is_dir() or not _runs(binaries / "python"):
        _do(
            [sys.executable, "-m", "venv", "--clear", str(VENV)],
            "Is the venv module installed (python3-venv)?",
        )
    install = [str(binaries / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _do(
        [*install, "--constraint", str(_CONSTRAINTS), "--editable", f"{ROOT}[{extras}]"],
        "Is there a network?",
    )
    stamp.write_text(" ".join([state.hexdigest(), *sorted(wanted)]))
    return binaries


def _runs(python: Path) -> bool:
    try:
        return subprocess.run([str(python), "-c", ""], check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def _do(command: list[str], hint: str) -> None:
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\nThat failed: {' '.join(command)}\n{hint}")
