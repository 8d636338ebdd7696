"""Runs of the quantizer killed with SIGKILL at random moments: what comes of them in the end.

    .venv/bin/python benchmarks/quantize_kills.py [--count 50] [--size-mb 200] [--format fp8_e4m3fn_scaled]

Each trial kills one to three runs on one output at random moments, lets the next one end, and compares
the file with that of a run that nothing happened to. Linux and macOS only (fork).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, claim, load_checkout

load_checkout()

from managed_models.manager.demo import layouts  # noqa: E402
from wan_files import write_large_model  # noqa: E402

PROGRAM = ROOT / "tests" / "support" / "kill_runs.py"
_BLOCK_MB = 19  # of bf16 at the width below


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--size-mb", type=int, default=200)
    parser.add_argument("--format", default="fp8_e4m3fn_scaled")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "wan.safetensors"
        layers = max(1, options.size_mb // _BLOCK_MB)
        write_large_model(source, layouts.wan21_t2v(width=768, ffn=3072, layers=layers))
        command = [
            sys.executable,
            str(PROGRAM),
            str(ROOT),
            str(source),
            str(Path(folder) / "out.safetensors"),
        ]
        command += [options.format, str(options.count), str(options.seed), "2"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr)
            return 1
    found = json.loads(done.stdout)
    trials = found["trials"]
    kills = sum(trial["kills"] for trial in trials)
    resumed = [t["resumed"] / (t["resumed"] + t["computed"]) for t in trials if t.get("resumed")]
    print(
        f"{found['source_bytes'] / 1024**2:.0f} MB, {options.format}: {len(trials)} trials, {kills} kills; "
        f"an undisturbed run takes {found['seconds']:.2f} s"
    )
    if resumed:
        print(
            f"{len(resumed)} last runs went on from an earlier one, with {statistics.median(resumed):.0%} of "
            f"the bytes done (median; least {min(resumed):.0%}, most {max(resumed):.0%})"
        )
    good = [
        claim("trials that ended in another file", sum(not t["same"] for t in trials), 0, "trials"),
        claim("trials that left something behind", sum(bool(t["left"]) for t in trials), 0, "trials"),
        claim(
            "trials in which nothing was killed",
            len([t for t in trials if not t["kills"]]) / len(trials),
            0.5,
            "of all",
        ),
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
