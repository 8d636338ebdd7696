"""What the extension adds to ComfyUI's start, against an empty extension, in one process.

    .venv/bin/python benchmarks/startup.py

Needs a ComfyUI (COMFYUI_PATH, or comfy-cli's workspace).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, claim

sys.path.append(str(ROOT / "scripts"))
from comfyui_server import find_comfyui

RUNS = 5
# Runs in ComfyUI's Python: loads an empty extension, then ours, as ComfyUI does while it starts.
INSIDE = r"""
import asyncio, json, logging, os, sys, time
path, base, empty, ours, models = sys.argv[1:6]
sys.path.insert(0, path)
sys.argv = ["main.py", "--cpu", "--base-directory", base]
import comfy.options
comfy.options.enable_args_parsing()
logging.disable(logging.CRITICAL)
import app.database.db, execution, server, nodes, comfy.sd
loop = asyncio.new_event_loop()
server.PromptServer(loop)
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
times = {}
# The first extension pays for what ComfyUI itself imports then, so an empty one goes ahead.
for name, folder in (("first", empty + "_first"), ("empty", empty), ("ours", ours)):
    start = time.perf_counter()
    assert loop.run_until_complete(nodes.load_custom_node(folder)), name
    times[name] = time.perf_counter() - start
times["model_files_opened"] = sum(1 for name in opened if name.startswith(models))
print("RESULT " + json.dumps(times))
"""
EMPTY = "NODE_CLASS_MAPPINGS = {}\n"


def main() -> int:
    comfyui = find_comfyui()
    if comfyui is None:
        print("No ComfyUI was found; nothing was measured.")
        return 1
    results = []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        (base / "custom_nodes").mkdir()
        models = base / "models" / "diffusion_models"
        models.mkdir(parents=True)
        for number in range(1000):
            (models / f"model_{number}.safetensors").write_bytes(b"")
        empty = base / "custom_nodes" / "empty"
        for folder_of_empty in (empty, empty.with_name("empty_first")):
            folder_of_empty.mkdir()
            (folder_of_empty / "__init__.py").write_text(EMPTY)
        ours = base / "custom_nodes" / "managed-models"
        ours.symlink_to(ROOT, target_is_directory=True)
        # As for everybody, Python keeps compiled modules; the first run makes them.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = str(base / "compiled")
        for _ in range(RUNS + 1):
            command = [str(comfyui.python), "-c", INSIDE, str(comfyui.path), folder]
            command += [str(empty), str(ours), str(models)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            line = next(x for x in done.stdout.splitlines() if x.startswith("RESULT "))
            results.append(json.loads(line.removeprefix("RESULT ")))
    first = results.pop(0)
    results.sort(key=lambda r: r["ours"] - r["empty"])
    middle = results[RUNS // 2]
    added = (middle["ours"] - middle["empty"]) * 1e3
    print(
        f"ComfyUI {comfyui.version}, median of {RUNS}: empty extension {middle['empty'] * 1e3:.1f} ms, "
        f"ours {middle['ours'] * 1e3:.1f} ms; 1,000 model files in place, "
        f"{middle['model_files_opened']} of them opened; the very first start, compiling: "
        f"{(first['ours'] - first['empty']) * 1e3:.0f} ms"
    )
    good = [
        claim("added to the start", added, 150.0, "ms"),
        claim("model files opened while starting", middle["model_files_opened"], 0, "files"),
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
