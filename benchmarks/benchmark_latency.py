"""`octavo bench latency` under the name that vLLM's script had; the arguments are the same.

python benchmarks/benchmark_latency.py --input-len 512 --output-len 128 --batch-size 1
"""

from __future__ import annotations

import sys

from octavo.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["bench", "latency", *sys.argv[1:]]))
