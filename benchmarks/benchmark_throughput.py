"""`octavo bench throughput` under the name that vLLM's script had; the arguments are the same.

python benchmarks/benchmark_throughput.py --input-len 512 --output-len 128 --num-prompts 1000
"""

from __future__ import annotations

import sys

from octavo.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["bench", "throughput", *sys.argv[1:]]))
