"""Is ``precision="auto"`` ever slower than plain transformers? With and without native kernels, and capped to AVX2.

    python benchmarks/inference/auto.py [--texts 8] [--rounds 3] [--home DIR]

Each setting is a process of its own, which runs ``run.py`` with ours and transformers taking turns (fp32, its best
batch, one thread, processor time). Without a compiler nothing native runs, as with ``MMBERT_NATIVE=0``. Ends with
status 1 if transformers is faster anywhere. ONNX Runtime is not among them: no variable caps it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}

SETTINGS = {
    "native": {},
    "no compiler": {"MMBERT_NATIVE": "0"},
    "AVX2, native": {**AVX2, "MMBERT_NATIVE": "avx2"},
    "AVX2, no compiler": {**AVX2, "MMBERT_NATIVE": "0"},
}

RUN = "--threads 1 --clock cpu --batches 4 8 --lengths variable-512 --latency --ways ours-auto hf-fp32"

ROW = re.compile(r"^\| (ours, auto|transformers[^|]*) \| +([\d.,]+) \|", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--home", help="a folder that keeps the model; default: one that is removed")
    options = parser.parse_args()
    print("| setting | tokens/s, auto | transformers | | query, ms | transformers | |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    slower = False
    for name, given in SETTINGS.items():
        command = [sys.executable, str(Path(__file__).with_name("run.py")), *RUN.split(), "--texts", str(options.texts)]
        command += ["--rounds", str(options.rounds), *(["--home", options.home] if options.home else [])]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **given})
        speed, theirs, wait, waits = (float(figure.replace(",", "")) for _, figure in ROW.findall(done.stdout))
        slower |= speed < theirs or wait > waits
        figures = f"{speed:,.0f} | {theirs:,.0f} | {speed / theirs:.2f}x | {wait} | {waits} | {waits / wait:.2f}x"
        print(f"| {name} | {figures} |", flush=True)
    sys.exit(int(slower))


if __name__ == "__main__":
    main()
