"""A headless browser for tests of HTML pages."""

import json
import shutil
import time

import pytest


class Browser:
    """A Selenium driver with access to requests, console messages and downloads."""

    def __init__(self, driver, downloads):
        self.driver, self.downloads = driver, downloads
        driver.execute_cdp_cmd(
            "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)}
        )

    def open(self, page, width=1280, height=800):
        """Open a file, or an address."""
        self.resize(width, height)
        self.driver.get_log("performance")
        self.driver.get(page if isinstance(page, str) else page.as_uri())

    def resize(self, width, height=800):
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def until(self, condition, what="", seconds=10):
        """Wait until a script expression is true; return its value."""
        end = time.monotonic() + seconds
        while not (value := self.js(f"return {condition}")):
            assert time.monotonic() < end, what or condition
            time.sleep(0.03)
        return value

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def find_all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def text(self, selector):
        return self.find(selector).text

    def press(self, *keys):
        """Send keys to the element with the focus."""
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def saved(self, name):
        """Return the text of a downloaded file, and delete it."""
        path = self.downloads / name
        end = time.monotonic() + 10
        while not path.exists():
            assert time.monotonic() < end, sorted(self.downloads.iterdir())
            time.sleep(0.03)
        text = path.read_text(encoding="utf-8")
        path.unlink()
        return text

    def requests(self):
        """Return the URLs requested since `open`."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self):
        return [entry for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    selenium = pytest.importorskip("selenium.webdriver", reason="requires selenium")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("requires chromium and chromedriver")
    options = selenium.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for option in ("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking"):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = selenium.Chrome(options, selenium.ChromeService(shutil.which("chromedriver")))
    yield Browser(driver, tmp_path_factory.mktemp("downloads"))
    driver.quit()
