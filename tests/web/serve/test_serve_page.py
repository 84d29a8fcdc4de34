"""The page of `vmae-det serve` in a headless browser."""

import pytest
from annotated import write_video
from served import load_model, serving, write_weights

NAME = "<img src=x onerror=document.title='hacked'> & video.mp4"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with serving(load_model(write_weights(folder / "model.pt")), folder / "out", max_bytes=2**20) as client:
        yield client


@pytest.fixture
def page(browser, client):
    browser.open(f"http://127.0.0.1:{client.port}/")
    browser.until("document.getElementById('limits').textContent")
    browser.complaints()
    yield browser
    assert browser.complaints() == []
    assert all(url.startswith((f"http://127.0.0.1:{client.port}/", "data:")) for url in browser.requests())
    browser.open("about:blank")


def send(page, path):
    page.find("#file").send_keys(str(path))


def test_a_video_is_sent_and_its_results_are_linked(page, client, tmp_path):
    video = write_video(tmp_path / NAME.replace("/", ""), seconds=2)
    send(page, video)
    page.until("document.querySelector('#jobs li.done')", seconds=240)
    assert page.text("#jobs .name") == NAME
    assert page.js("return document.title") == "vmae-det serve"
    links = {link.text: link.get_attribute("href") for link in page.find_all("#jobs a")}
    assert set(links) == {"Open result", "CSV", "JSON lines", "Overlay"}
    page.open(links["Open result"])  # its own policy allows its script
    page.until("document.getElementById('length').textContent", "the script of the result did not run")
    page.until("document.getElementById('video').readyState > 0", "the video does not play")
    page.open(f"http://127.0.0.1:{client.port}/")
    page.until("document.querySelector('#jobs li.done button')").click()
    page.until("document.querySelectorAll('#jobs li').length === 0")
    assert client.jobs() == []


def test_errors_are_shown_on_a_narrow_page(page, client, tmp_path):
    page.resize(390, 800)
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(2**20 + 1))
    send(page, large)
    page.until("!document.getElementById('trouble').hidden")
    assert page.text("#trouble") == "large.mp4: larger than 1 MiB"
    broken = tmp_path / f"{'long' * 20}.mp4"
    broken.write_bytes(b"no video")
    send(page, broken)
    page.until("document.querySelector('#jobs li.failed')", seconds=240)
    assert "cannot be read as a video" in page.text("#jobs .error")
    page.find("#url").send_keys("http://127.0.0.1:1/x.mp4\n")
    page.until(
        "[...document.querySelectorAll('#jobs .error')].some((e) => e.textContent.includes('refused'))"
    )
    assert page.js("return document.documentElement.scrollWidth") <= 390
    for job in client.jobs():
        client.request("DELETE", f"/api/jobs/{job['id']}")
