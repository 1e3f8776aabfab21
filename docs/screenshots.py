"""Make the screenshots of the documentation: a demo server under load, in a headless Chromium.

`PYTHONPATH=. python docs/screenshots.py` writes docs/images/page-*.png, with a palette of 256 colours. Needs
the dev extra, Pillow, and Debian's chromium and chromium-driver.
"""

from __future__ import annotations

import io
import itertools
import sys
import threading
import time
from pathlib import Path

import httpx
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.chromium import Browser, Keys, chromium  # noqa: E402
from support.serve_command import Command  # noqa: E402

from octavo.model.demo import demo_model_path  # noqa: E402

IMAGES = ROOT / "docs" / "images"
MAX_BYTES = 200_000
NUM_CLIENTS = 9
SYSTEM = "You are a helpful assistant who answers briefly, in plain words, and never invents facts."
QUESTIONS = (
    "What is the capital of Norway?",
    "Write a story about a lighthouse keeper.",
    "Explain how paper is made.",
    "List the planets in order.",
    "Who was Johannes Gutenberg?",
)


def keep_busy(url: str, number: int, stop: threading.Event) -> None:
    """One client that asks one question after another."""
    for turn in itertools.count(number):
        body = {
            "messages": [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": QUESTIONS[turn % len(QUESTIONS)]},
            ],
            "max_tokens": 120 + 60 * (number % 5),
            "ignore_eos": True,
            "stream": True,
            "seed": turn,
        }
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=120) as response:
            response.raise_for_status()
            for _ in response.iter_lines():
                if stop.is_set():
                    return


def save(browser: Browser, name: str) -> None:
    """A screenshot as a PNG with a palette."""
    image = Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())).convert("RGB")
    path = IMAGES / f"page-{name}.png"
    image.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise SystemExit(f"{path} has {size} bytes, more than {MAX_BYTES}")
    print(f"{path.relative_to(ROOT)}: {image.width} x {image.height}, {size} bytes")


def ask(browser: Browser, text: str) -> None:
    browser.get("prompt").send_keys(text, Keys.ENTER)


def shoot(browser: Browser, url: str) -> None:
    browser.resize(1280, 800)
    browser.emulate(prefers_color_scheme="light")
    browser.open(f"{url}/")
    browser.wait(lambda: browser.get("status").get_attribute("data-state") == "live")
    browser.run("document.getElementById('seed').value = 6")
    ask(browser, "Why is the sky blue? Two sentences.")
    browser.wait(lambda: browser.get("send").is_displayed(), 60)
    stop = threading.Event()
    clients = [
        threading.Thread(target=keep_busy, args=(url, number, stop), daemon=True)
        for number in range(NUM_CLIENTS)
    ]
    for client in clients[:4]:
        client.start()
    browser.wait(lambda: len(browser.find("#batch .sequence")) == 4)
    ask(browser, "And why is it red in the evening?")
    browser.wait(lambda: len(browser.text(".turn:last-child .body")) > 120, 60)
    save(browser, "chat")
    for client in clients[4:]:
        client.start()
    browser.get("tab-live").click()
    time.sleep(40)
    browser.resize(1280, 1330)
    time.sleep(2)
    save(browser, "live")
    browser.resize(1280, 800)
    browser.emulate(prefers_color_scheme="dark")
    time.sleep(1)
    save(browser, "live-dark")
    browser.get("tab-tree").click()
    time.sleep(2)
    save(browser, "prefixes-dark")
    browser.resize(390, 780, mobile=True)
    browser.emulate(prefers_color_scheme="light")
    browser.get("tab-live").click()
    time.sleep(1)
    save(browser, "phone-live")
    browser.get("tab-chat").click()
    time.sleep(1)
    save(browser, "phone-chat")
    stop.set()
    for client in clients:
        client.join()


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    flags = ("--served-model-name", "SmolLM2-135M-Instruct", "--page-show-text", "--max-num-seqs", "6")
    server = Command(demo_model_path(), *flags)
    try:
        with chromium() as browser:
            shoot(browser, server.url)
    finally:
        server.end()


if __name__ == "__main__":
    main()
