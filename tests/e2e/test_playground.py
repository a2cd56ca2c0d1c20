"""The playground in a real browser: the gate first, lists that agree with the warehouse, and never two runs mixed."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from e2e_chain import MATCHING, Chain
from playwright.sync_api import Browser, Page, Request, Route, expect, sync_playwright

from ml.browser import BUNDLE
from orchestration import model_runs
from orchestration.settings import load_settings
from orchestration.warehouse import registry, serving
from orchestration.warehouse.connection import connect

pytestmark = pytest.mark.e2e

PATIENCE = 30_000
SHOWN = 20


@pytest.fixture(scope="module")
def address(chain: Chain) -> Iterator[str]:
    """The command a person runs, on a free port, stopped as a person stops it."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not on the PATH")
    running = subprocess.Popen(
        [MATCHING, "playground", "--port", "0"],
        env=chain.home.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell in the background hands down an ignored SIGINT; a terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert running.stdout is not None
    said = running.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+/", said)
    if found is None:
        running.kill()
        pytest.fail(f"the playground did not start: {said}{running.communicate()[1]}")
    yield found[0]
    running.send_signal(signal.SIGINT)
    said, complaints = running.communicate(timeout=20)
    assert (running.returncode, said.strip(), complaints) == (0, "stopped", "")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is on the PATH")
    with sync_playwright() as driver:
        running = driver.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"] if os.geteuid() == 0 else [], timeout=60_000
        )
        yield running
        running.close()


class Visit:
    """One visitor: a page, what it asked for, and what went wrong in it."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("request", self._asked)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))

    def _asked(self, request: Request) -> None:
        if not request.url.startswith("data:"):
            self.requests.append(request.url)

    @property
    def paths(self) -> list[str]:
        return [urlsplit(url).path for url in self.requests]

    def enter(self) -> None:
        self.page.goto(self.address)
        self.page.get_by_role("button", name="Yes, I am 18 or older").click()

    def ids(self, which: str) -> list[str]:
        return [str(one.get_attribute("data-id")) for one in self.page.locator(f"#{which} li").all()]

    def card(self) -> str:
        return str(self.page.locator("#card").get_attribute("data-id"))

    def compared(self, decisions: int) -> None:
        """Wait until both lists are of this many decisions."""
        expect(self.page.locator("#facts")).to_have_attribute("data-decisions", str(decisions), timeout=PATIENCE)


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    """A visitor whose page must not complain, nor ask anybody but the playground."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    made = Visit(context.new_page(), address)
    yield made
    context.close()
    assert made.complaints == []
    assert made.requests != []
    assert {urlsplit(url).netloc for url in made.requests} == {urlsplit(address).netloc}


def test_nothing_is_loaded_before_the_visitor_says_to_be_of_age(visit: Visit) -> None:
    page = visit.page
    page.goto(visit.address)
    gate = page.get_by_role("dialog", name="Are you 18 or older?")
    expect(gate).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")
    expect(gate).to_be_visible()
    page.get_by_role("button", name="No, leave").click()
    expect(page.get_by_text("Nothing was loaded")).to_be_visible()
    expect(page.locator("#main")).to_be_hidden()
    assert sorted(visit.paths) == ["/", "/playground.css", "/playground.js"]


def test_likes_reorder_the_list_hide_what_was_decided_and_agree_with_the_warehouse(visit: Visit, chain: Chain) -> None:
    page = visit.page
    visit.enter()
    visit.compared(0)
    first = visit.ids("browser")
    assert len(first) == SHOWN
    decided = []
    for press in (
        lambda: page.get_by_role("button", name="Like").click(),
        lambda: page.keyboard.press("ArrowRight"),
        lambda: page.keyboard.press("ArrowRight"),
        lambda: page.keyboard.press("ArrowLeft"),
    ):
        decided.append(visit.card())
        press()
        visit.compared(len(decided))
        here, there = visit.ids("browser"), visit.ids("warehouse")
        assert not set(decided) & {*here, *there, visit.card()}
        assert len(here) == len(there) == SHOWN
        assert len(set(here) & set(there)) >= 0.9 * SHOWN
        expect(page.locator("#agreement")).to_have_text(f"{len(set(here) & set(there))} of {SHOWN}")
    assert len(set(here) & set(first)) < 0.9 * SHOWN
    assert len(set(decided)) == 4

    likes, nope = [decided[2], decided[1], decided[0]], [decided[3]]
    rows = serving.recommend_from_history(chain.home.database(), likes, nope, SHOWN)
    assert [row.content_id for row in rows] == there
    expect(page.locator("#run")).to_contain_text(rows[0].model_run)

    page.get_by_role("button", name="Undo").click()
    visit.compared(3)
    expect(page.locator("#history li")).to_have_count(3)
    page.get_by_role("button", name="Start over").click()
    visit.compared(0)
    assert visit.ids("browser") == first


def test_the_page_fits_a_phone_and_can_be_worked_by_keyboard(visit: Visit) -> None:
    page = visit.page
    page.set_viewport_size({"width": 360, "height": 740})
    visit.enter()
    visit.compared(0)
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide == 0
    for name in ("Nope", "Like"):
        box = page.get_by_role("button", name=name).bounding_box()
        assert box is not None
        assert box["height"] >= 44
        assert box["y"] + box["height"] <= 740
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, [role=img]')]"
        ".filter(one => !(one.ariaLabel || one.textContent.trim())).length"
    )
    assert unnamed == 0
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Like")).to_be_focused()
    page.keyboard.press("Enter")
    visit.compared(1)


def test_items_of_another_run_are_refused(visit: Visit) -> None:
    def of_another_run(route: Route) -> None:
        header = route.fetch().json()
        route.fulfill(json={**header, "run_id": "another-run"})

    visit.page.route("**/items.json", of_another_run)
    visit.enter()
    banner = visit.page.get_by_role("alert")
    expect(banner).to_contain_text("encoded by another model", timeout=PATIENCE)
    expect(banner).to_contain_text("another-run")
    expect(visit.page.locator("#main")).to_be_hidden()


@pytest.fixture
def another_run(chain: Chain) -> Iterator[Callable[[], str]]:
    """Serve the same model under another name; at the end the first one is served again."""
    settings = load_settings({**os.environ, "MATCHING_HOME": str(chain.home.path)})
    with connect(settings.database(), "trainer") as connection:
        before = registry.active_run(connection)
    assert before is not None
    new_id = f"{before.run_id}-{secrets.token_hex(2)}"
    folder, copy = settings.artifacts_dir / before.artifact_path, settings.artifacts_dir / new_id

    def rename(path: Path, change: Callable[[dict], None]) -> None:
        content = json.loads(path.read_text(encoding="utf-8"))
        change(content)
        path.write_text(json.dumps(content), encoding="utf-8")

    def serve() -> str:
        shutil.copytree(folder, copy)
        rename(copy / "manifest.json", lambda manifest: manifest["provenance"].update(run_id=new_id))
        rename(copy / BUNDLE / "manifest.json", lambda manifest: manifest.update(run_id=new_id))
        names = [field.name for field in fields(registry.Provenance)]
        provenance = registry.Provenance(**{name: getattr(before, name) for name in names})
        with connect(settings.database(), "trainer", autocommit=True) as connection:
            registry.register_candidate(connection, new_id, provenance, before.trained_until)
            registry.record_judgement(connection, new_id, before.metrics or {}, True, "the same", before.run_id)
            model_runs.publish_run(settings, registry.get_run(connection, new_id))
            registry.activate(connection, new_id, "test", by_hand=True)
        return new_id

    yield serve
    with connect(settings.database(), "trainer", autocommit=True) as connection:
        active = registry.active_run(connection)
        if active is not None and active.run_id == new_id:
            registry.roll_back(connection, None, "test")
    shutil.rmtree(copy, ignore_errors=True)


def test_when_another_run_is_served_the_page_says_so_and_a_reload_brings_it(
    visit: Visit, another_run: Callable[[], str]
) -> None:
    page = visit.page
    visit.enter()
    visit.compared(0)
    new_id = another_run()
    page.keyboard.press("ArrowRight")
    banner = page.get_by_role("alert")
    expect(banner).to_contain_text("A new model is being served: reload", timeout=PATIENCE)
    expect(banner).to_contain_text(new_id)
    assert visit.ids("warehouse") == []
    expect(page.locator("#agreement")).to_have_text("–")
    page.get_by_role("button", name="Reload").click()
    expect(page.locator("#run")).to_contain_text(new_id, timeout=PATIENCE)
    visit.compared(0)
    expect(banner).to_be_hidden()


def test_the_server_answers_this_machine_and_this_page_only(address: str) -> None:
    question = {"liked": [], "noped": [], "limit": 5}
    with httpx.Client(base_url=address) as client:
        assert client.post("api/recommend", json=question).status_code == 200
        assert client.post("api/recommend", data=question).status_code == 400  # as a form of another site would
        assert client.post("api/recommend", json={**question, "user_id": "u00001"}).status_code == 400
        assert client.post("api/recommend", json={**question, "liked": "u00001"}).status_code == 400
        assert client.post("api/recommend", json={**question, "limit": 100_000}).status_code == 409
        assert client.get("/", headers={"Host": "elsewhere.example"}).status_code == 403
        assert client.get("/../../etc/passwd").status_code == 404
        assert client.get("/runs/../../../manifest.json").status_code == 404
        page = client.get("/")
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "access-control-allow-origin" not in page.headers


def test_what_the_page_loads_names_no_user(address: str, chain: Chain) -> None:
    with httpx.Client(base_url=address) as client:
        session = client.get("session.json").json()
        items = client.get(f"{session['items']}items.json").text
    assert len(json.loads(items)["ids"]) > 1_000
    assert not [user for user in map(str, chain.world.user_ids) if f'"{user}"' in items]


def test_exported_files_are_what_an_app_loads(chain: Chain, tmp_path: Path) -> None:
    with connect(chain.home.database(), "trainer") as connection:
        run = registry.active_run(connection)
    assert run is not None
    said = chain.home.run("export", "tfjs", run.run_id, "--weights", "uint16", "--out", str(tmp_path / "bundle")).stdout
    assert "MB gzipped, uint16" in said
    assert {"manifest.json", "model.json", "matching.js", "matching.d.ts"} <= {
        path.name for path in (tmp_path / "bundle").iterdir()
    }
    chain.home.run("export", "vectors", "--out", str(tmp_path / "items"), "--items", "100")
    header = json.loads((tmp_path / "items" / "items.json").read_text(encoding="utf-8"))
    assert (header["run_id"], len(header["ids"])) == (run.run_id, 100)
    assert (tmp_path / "items" / header["vectors"]).stat().st_size == 100 * 768 * 2
    (tmp_path / "mine").mkdir()
    refused = chain.home.run("export", "tfjs", run.run_id, "--out", str(tmp_path / "mine"), check=False)
    assert refused.returncode == 1
    assert "holds no browser bundle" in refused.stderr
