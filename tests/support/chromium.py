"""A headless Chromium on a page: Debian's, driven by its own chromedriver."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

T = TypeVar("T")

__all__ = ["Browser", "Keys", "chromium", "missing"]


def missing() -> str | None:
    """Why there is no Chromium to drive, or None."""
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: apt install chromium chromium-driver)"
    return None


class Browser:
    """What tests do with a browser. `id` is an element's id; waiting raises AssertionError in the end."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get(url)

    def find(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def get(self, id: str) -> WebElement:
        return self.driver.find_element(By.ID, id)

    def text(self, selector: str) -> str:
        while True:
            try:
                return "\n".join(element.text for element in self.find(selector))
            except StaleElementReferenceException:  # the page drew it anew between the two
                continue

    def press(self, *keys: str) -> None:
        """Keys to whatever has the focus."""
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def hover(self, element: WebElement, x: float = 0, y: float = 0) -> None:
        """The pointer at an offset from an element's upper left corner."""
        size = element.size
        actions = webdriver.ActionChains(self.driver)
        actions.move_to_element_with_offset(
            element, int(x - size["width"] / 2), int(y - size["height"] / 2)
        ).perform()

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, what: Callable[[], T], seconds: float = 60) -> T:
        """The first result of `what` that is true."""
        deadline = time.monotonic() + seconds
        while not (result := what()):
            assert time.monotonic() < deadline, f"not within {seconds} s"
            time.sleep(0.05)
        return result

    def resize(self, width: int, height: int, scale: float = 1.0, *, mobile: bool = False) -> None:
        """The viewport in CSS pixels, and device pixels in each."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def emulate(self, **features: str) -> None:
        """Media features, such as prefers_color_scheme="dark"."""
        settings = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": settings})

    def complaints(self) -> list[str]:
        """What the browser has logged since the last time: errors, refusals of the policy, warnings."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that reaches nothing but this machine."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (
        "--headless=new",
        "--no-sandbox",  # As root, in containers, there is no other way.
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--lang=en",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
