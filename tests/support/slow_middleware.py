"""Code that an operator puts around a server, and that takes 50 ms of a CPU for each request."""

from __future__ import annotations

import time
from typing import Any


async def slow(request: Any, call_next: Any) -> Any:
    began = time.thread_time()
    while request.method == "POST" and time.thread_time() - began < 0.05:
        pass
    return await call_next(request)
