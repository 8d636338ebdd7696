"""Find a ComfyUI on this machine, and run it over a folder of our own. Standard library only.

Used by ``scripts/run`` and by the tests. The installation itself is never written to.
"""

from __future__ import annotations

import configparser
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

_START_SECONDS = 180
_STOP_SECONDS = 20


@dataclass(frozen=True)
class ComfyUI:
    """An installation: the folder with main.py, and the Python that runs it."""

    path: Path
    python: Path

    @property
    def version(self) -> str:
        """The version it says of itself."""
        try:
            text = (self.path / "comfyui_version.py").read_text(encoding="utf-8")
        except OSError:
            return "unknown"
        return text.partition('"')[2].partition('"')[0] or "unknown"

    def has_gpu(self) -> bool:
        """Ask its torch whether there is an accelerator."""
        question = (
            "import torch\n"
            "mps = getattr(torch.backends, 'mps', None)\n"
            "xpu = getattr(torch, 'xpu', None)\n"
            "print(torch.cuda.is_available() or bool(mps and mps.is_available())"
            " or bool(xpu and xpu.is_available()))"
        )
        answer = subprocess.run(
            [str(self.python), "-c", question], capture_output=True, text=True, check=False
        )
        return answer.stdout.strip() == "True"


def find_comfyui() -> ComfyUI | None:
    """Return the ComfyUI that COMFYUI_PATH names, else comfy-cli's default workspace, else None."""
    said = os.environ.get("COMFYUI_PATH")
    for path in [Path(said)] if said else _workspaces():
        if (path / "main.py").is_file() and (path / "comfy").is_dir():
            python = _python_of(path)
            if python:
                return ComfyUI(path, python)
    return None


def _workspaces() -> list[Path]:
    home = Path.home()
    if sys.platform == "win32":
        settings = home / "AppData" / "Local" / "comfy-cli"
        default = home / "Documents" / "comfy" / "ComfyUI"
    elif sys.platform == "darwin":
        settings = home / "Library" / "Application Support" / "comfy-cli"
        default = home / "Documents" / "comfy" / "ComfyUI"
    else:
        settings = home / ".config" / "comfy-cli"
        default = home / "comfy" / "ComfyUI"
    config = configparser.ConfigParser()
    try:
        config.read(settings / "config.ini", encoding="utf-8")
        chosen = config.defaults().get("default_workspace")
    except (configparser.Error, OSError):
        chosen = None
    return [*([Path(chosen)] if chosen else []), default, home / "comfy" / "ComfyUI"]


def _python_of(path: Path) -> Path | None:
    said = os.environ.get("COMFYUI_PYTHON")
    candidates = [Path(said)] if said else []
    for environment in (".venv", "venv"):
        candidates += [path / environment / "bin" / "python", path / environment / "Scripts" / "python.exe"]
    candidates.append(path.parent / "python_embeded" / "python.exe")  # the portable build spells it so
    return next((python for python in candidates if python.is_file()), None)


@dataclass
class ComfyUIServer:
    """A ComfyUI process over ``base``, its folder for models, inputs, outputs and settings.

    Use it as a context manager; leaving stops the process.
    """

    comfyui: ComfyUI
    base: Path
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    port: int = 0

    def __post_init__(self) -> None:
        self.port = self.port or _free_port()
        self.log = self.base / "comfyui.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def install_extension(self, source: Path, name: str = "managed-models") -> Path:
        """Put the extension into the base folder: a link, or a copy where links are not allowed."""
        target = self.base / "custom_nodes" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.symlink_to(source, target_is_directory=True)
        except OSError:
            ignore = shutil.ignore_patterns(".git", ".venv", "__pycache__", "*.egg-info")
            shutil.copytree(source, target, ignore=ignore)
        return target

    def write_settings(self, **settings: object) -> None:
        """Seed the page's settings, so that it opens on the canvas and not on its first-run dialog."""
        path = self.base / "user" / "default" / "comfy.settings.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"Comfy.TutorialCompleted": True, **settings}), encoding="utf-8")

    def start(self) -> None:
        """Start the process and wait until it answers.

        Raises:
            RuntimeError: it ended or did not answer in time; the message has the end of its log.
        """
        for folder in ("custom_nodes", "models", "user", "input", "output"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        command = [str(self.comfyui.python), "main.py", "--base-directory", str(self.base)]
        command += ["--database-url", f"sqlite:///{self.base / 'user' / 'comfyui.db'}"]
        command += ["--port", str(self.port), "--disable-auto-launch", *self.arguments]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **self.environment}
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.comfyui.path, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended while it started:\n{self._log_end()}")
            if self._answers():
                return
            time.sleep(0.2)
        self.stop()
        raise RuntimeError(f"ComfyUI did not answer within {_START_SECONDS} s:\n{self._log_end()}")

    def stop(self) -> None:
        """End the process, if it runs."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def wait(self) -> None:
        """Wait until the process ends by itself."""
        if self._process is not None:
            self._process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def __enter__(self) -> ComfyUIServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/system_stats", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _log_end(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-4000:]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
