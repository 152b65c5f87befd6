"""The page in a real browser: silent, offline, on one screen of a phone too, and without scripts."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reports import drawing, figures, page
from reports.outcomes import assess
from reports.results import Results

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra test")
wait = pytest.importorskip("selenium.webdriver.support.wait", reason="needs selenium, of the extra test")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs Chromium and its driver, as from the packages chromium and chromium-driver"
)

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PHONE, DESKTOP = (390, 844), (1280, 900)


@pytest.fixture(scope="module")
def html(made: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every claim, the lookups, and two of the figures, since drawing takes its time."""
    folder = tmp_path_factory.mktemp("page")
    drawings = {}
    for name in ("4a", "5a"):
        figure = figures.FIGURES[name].draw(made)
        assert figure is not None
        drawings[name] = drawing.save(figure, folder, name)[0].read_text(encoding="utf-8")
    path = folder / "index.html"
    path.write_text(page.render(made, assess(made), drawings), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: Any, html: Path) -> Callable[..., Any]:
    def open_page(size: tuple[int, int] = DESKTOP, scripts: bool = True) -> Any:
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        preferred = {"name": "prefers-reduced-motion", "value": "reduce"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [preferred]})
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        for log in ("browser", "performance"):
            browser.get_log(log)  # what came before does not count
        browser.get("about:blank")
        browser.get(html.as_uri())
        if scripts:  # on a busy machine the page is there before its scripts have run
            wait.WebDriverWait(browser, 60).until(lambda driver: every(driver, "#lookup-tool:not([hidden])"))
        return browser

    return open_page


def one(driver: Any, selector: str) -> Any:
    return driver.find_element("css selector", selector)


def every(driver: Any, selector: str) -> list[Any]:
    return driver.find_elements("css selector", selector)


def pictures(driver: Any) -> list[str]:
    script = "return [...document.querySelectorAll('#lookup-tool canvas')].map(c => c.toDataURL())"
    return driver.execute_script(script)


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_it_loads_without_a_console_message_or_a_request(opened: Callable[..., Any], html: Path, size: Any) -> None:
    driver = opened(size)
    driver.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    driver.execute_script("scrollTo(0, document.documentElement.scrollHeight)")
    time.sleep(0.5)
    assert driver.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith(("data:", "about:"))} == {html.as_uri()}
    assert driver.execute_script("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")


@pytest.mark.parametrize("size", [DESKTOP, PHONE, (320, 640), (900, 700), (1160, 800)])
def test_the_page_never_scrolls_sideways(opened: Callable[..., Any], size: Any) -> None:
    driver = opened(size)
    driver.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    width = driver.execute_script("return document.documentElement.scrollWidth")
    assert width <= driver.execute_script("return document.documentElement.clientWidth")
    driver.execute_script("scrollTo(1000, 0)")
    assert driver.execute_script("return scrollX") == 0


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_a_number_opens_its_provenance(opened: Callable[..., Any], size: Any) -> None:
    driver = opened(size)
    dialog = one(driver, "#dialog")
    assert not dialog.is_displayed()
    claim = one(driver, "[id='claim-fewshot.vae']")
    assert not claim.is_displayed()
    one(driver, "#experiment-fewshot > summary").click()
    assert claim.is_displayed()
    one(driver, "[id='claim-fewshot.vae'] a.ours").click()
    assert dialog.is_displayed()
    assert one(driver, "#dialog-title").text == "fewshot.vae"
    for words in ("commit", "data_sha256", "train_id", "omniglot45_5", '"model": "vae"'):
        assert words in dialog.text or words in driver.execute_script("return arguments[0].textContent", dialog)
    one(driver, "#dialog-close").click()
    assert not dialog.is_displayed()


def test_another_target_changes_the_images_of_the_lookup(opened: Callable[..., Any]) -> None:
    driver = opened()
    targets = every(driver, "#targets button")
    assert len(targets) == 8
    assert len(every(driver, "#memory canvas")) == 80
    assert len(every(driver, "#top canvas")) == 5
    first = pictures(driver)
    assert len(set(first)) > 80
    targets[3].click()
    second = pictures(driver)
    assert second[: len(targets)] == first[: len(targets)]
    assert len(second) == len(first)
    assert all(a != b for a, b in zip(first[len(targets) :], second[len(targets) :], strict=True))
    assert [t.get_attribute("aria-pressed") for t in targets] == ["true" if i == 3 else "false" for i in range(8)]
    heights = driver.execute_script("return [...document.querySelectorAll('#memory .q')].map(b => b.clientHeight)")
    assert max(heights) > 40
    assert len(every(driver, "#memory .class.own")) == 1


def test_without_scripts_all_is_there_but_choosing(opened: Callable[..., Any]) -> None:
    driver = opened(scripts=False)
    assert not one(driver, "#lookup-tool").is_displayed()
    article = one(driver, "[id='from-table1.vma.1.1']")
    assert not article.is_displayed()
    one(driver, ".grid a.ours").click()
    assert article.is_displayed()
