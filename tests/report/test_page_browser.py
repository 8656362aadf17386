"""The page in a browser: it asks for nothing, chooses what was drawn around, and can be used by everybody."""

import csv
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_audits import big_audit, chosen_audit, digits_audit, hostile_audit, table_audit, text_audit, variants
from PIL import Image

from datumwise.report.page import write_page

pytestmark = pytest.mark.browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE = Path(__file__).parent / "assets" / "axe.min.js"
DESK, PHONE = (1240, 900), (390, 844)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Name -> (audit, path of its page), written once."""
    folder = tmp_path_factory.mktemp("pages")
    audits = {
        "digits": digits_audit(),
        "text": text_audit(),
        "table": table_audit(),
        "chosen": chosen_audit(),
        "many points": big_audit(),
        "hostile text": hostile_audit("text"),
        "hostile table": hostile_audit("table"),
        **variants(),
    }
    return {name: (audit, write_page(audit, folder / f"{i}.html")) for i, (name, audit) in enumerate(audits.items())}


@pytest.fixture
def visit(browser, pages):
    """Opens a page offline; at the end nothing may have failed, been logged or been asked for."""
    contexts, troubles = [], []

    def visit(name, size=DESK, **options):
        options = {"offline": True, "viewport": {"width": size[0], "height": size[1]}} | options
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(f"console: {message.text} {message.location}"))
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on(
            "request",
            lambda request: request.url.startswith(("file:", "data:", "blob:")) or troubles.append(request.url),
        )
        audit, path = pages[name]
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready]")
        return audit, page

    yield visit
    for context in contexts:
        context.close()
    assert not troubles


def chosen(page):
    """How many datapoints the page says are chosen."""
    return int(page.get_attribute("#count", "data-count"))


def on_screen(page, audit):
    """Where every datapoint lies, in px of the window, (n, 2), from the audit's own coordinates."""
    page.locator("#map").scroll_into_view_if_needed()
    # a mouse event tells whole px: put the map on whole px, so that the polygon drawn is the polygon tested
    page.evaluate(
        "() => { const m = document.getElementById('map'); m.style.top = m.style.left = '0';"
        "const r = m.getBoundingClientRect();"
        "m.style.top = -(r.top % 1) + 'px'; m.style.left = -(r.left % 1) + 'px'; }"
    )
    box = page.locator("#map").bounding_box()
    left, top, right, bottom = map(float, page.get_attribute("#map", "data-frame").split())
    low, high = audit.map.xy.min(0), audit.map.xy.max(0)
    share = np.round((audit.map.xy.astype(float) - low) / (high - low) * 65_534) / 65_534  # as it travels
    return np.c_[box["x"] + left + share[:, 0] * (right - left), box["y"] + bottom + share[:, 1] * (top - bottom)]


def enclosed(polygon, points):
    """Even-odd rule by counting the edges that a ray to the right crosses, for all points at once."""
    within = np.zeros(len(points), bool)
    for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        straddles = (points[:, 1] >= min(ay, by)) & (points[:, 1] < max(ay, by))
        if ay != by:
            within ^= straddles & (points[:, 0] < ax + (points[:, 1] - ay) * (bx - ax) / (by - ay))
    return within


def drag(page, polygon):
    page.mouse.move(*polygon[0])
    page.mouse.down()
    for corner in polygon[1:]:
        page.mouse.move(*corner)
    page.mouse.up()


def shape_on(page, corners):
    """Corners given as shares of the map, as whole px of the window."""
    box = page.locator("#map").bounding_box()
    return np.round([(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners])


STAR = [(0.15, 0.2), (0.55, 0.12), (0.5, 0.45), (0.9, 0.5), (0.6, 0.9), (0.45, 0.55), (0.2, 0.8)]


def ids_in_table(page):
    return page.locator("#evidence tbody td.id").all_inner_texts()


def test_a_selection_is_listed_in_the_order_chosen(visit):
    audit, page = visit("chosen")
    page.get_by_role("button", name="chosen: core").click()
    assert chosen(page) == 8
    assert ids_in_table(page) == [str(audit.map.ids[row]) for row in range(70, 0, -9)]
    page.get_by_role("button", name=re.compile("all datapoints")).click()
    assert chosen(page) != 8


def test_every_page_opens_offline_and_says_the_verdict(visit, pages):
    for name in pages:
        if name.startswith(("hostile", "many", "text", "table")):
            continue  # opened by other tests
        audit, page = visit(name)
        assert page.inner_text("h1") == audit.verdict
        assert page.locator(".kind").count() == 1 + len(audit.findings) + len(audit.chosen)
        assert chosen(page) == (len(audit.evidence) or min(audit.n, 100))
        page.context.close()


@pytest.mark.parametrize("name", ["digits", "table"])
def test_a_lasso_chooses_exactly_what_it_encloses(visit, name):
    audit, page = visit(name)
    points = on_screen(page, audit)
    polygon = shape_on(page, STAR)
    drag(page, polygon)
    within = enclosed(polygon, points)
    page.wait_for_selector("#clear:enabled")
    assert chosen(page) == within.sum() > 10
    assert f"{within.sum():,} selected" in page.inner_text("#count")
    first = max((item for item in audit.evidence if within[item.row]), key=lambda item: item.suspicion)
    assert ids_in_table(page)[0] == first.id


def test_a_lasso_after_zooming_in_chooses_what_it_encloses(visit):
    audit, page = visit("digits")
    on_screen(page, audit)
    drag(page, shape_on(page, [(0.2, 0.2), (0.6, 0.2), (0.6, 0.7), (0.2, 0.7)]))
    page.click("#zoom")
    assert page.inner_text("#zoom") == "Zoom out"
    page.click("#clear")
    points = on_screen(page, audit)
    polygon = shape_on(page, STAR)
    drag(page, polygon)
    assert chosen(page) == enclosed(polygon, points).sum() > 10


def test_a_box_chooses_exactly_what_it_encloses(visit):
    audit, page = visit("digits")
    page.click("#box")
    points = on_screen(page, audit)
    (x0, y0), (x1, y1) = corners = shape_on(page, [(0.2, 0.25), (0.7, 0.6)])
    drag(page, corners)
    within = ((points >= [x0, y0]) & (points <= [x1, y1])).all(1)
    assert chosen(page) == within.sum() > 10


def test_a_lasso_on_a_sample_of_many_points_counts_those_shown(visit, pages):
    audit, page = visit("many points")
    polygon = [(0.1, 0.1), (0.5, 0.1), (0.5, 0.5), (0.1, 0.5)]
    on_screen(page, audit)
    drag(page, shape_on(page, polygon))
    page.wait_for_selector("#clear:enabled")
    assert 1_000 < chosen(page) < 50_000
    assert "a sample of" in page.inner_text("#findings")


def test_a_brush_along_the_score_keeps_its_range(visit):
    audit, page = visit("digits")
    name = page.locator("#score option").first.inner_text().replace(" ", "_")
    score = audit.map.scores[name]
    page.locator("#hist").scroll_into_view_if_needed()
    box = page.locator("#hist").bounding_box()
    y = box["y"] + 40
    drag(page, [(box["x"] + 0.5 * box["width"], y), (box["x"] + 0.7 * box["width"], y)])
    low, high = (float(page.input_value(f"#{end}")) for end in ("low", "high"))
    assert 0.3 < low < 0.6 < high < 0.9
    loose, strict = ((score > low - e) & (score < high + e) for e in (0.011, -0.011))
    assert strict.sum() <= chosen(page) <= loose.sum()
    page.fill("#low", "0.25")
    page.fill("#high", "0.75")
    page.locator("#high").press("Enter")
    assert chosen(page) == ((score >= 0.25) & (score <= 0.75)).sum()
    page.keyboard.press("Escape")
    assert chosen(page) == len(audit.evidence)


def test_a_button_shows_its_kind_and_only_its_kind(visit):
    audit, page = visit("digits")
    for i, finding in enumerate(audit.findings):
        page.click(f'.kind[data-kind="{i}"]')
        assert chosen(page) == finding.count
        assert page.get_attribute(f'.kind[data-kind="{i}"]', "aria-pressed") == "true"
        shown = {int(id) for id in ids_in_table(page)}
        assert shown <= set(np.flatnonzero(audit.map.flags >> finding.bit & 1))
    page.click('.kind[data-kind="-1"]')
    assert chosen(page) == len(audit.evidence)


def test_sorting_and_paging_go_through_every_row_once(visit):
    audit, page = visit("digits")
    page.click('[data-sort="p(given)"]')
    seen, values = [], []
    while True:
        seen += ids_in_table(page)
        values += [float(text) for text in page.locator("#evidence tbody td.num").all_inner_texts()]
        if page.is_disabled("#next"):
            break
        page.click("#next")
    assert values == sorted(values)
    assert sorted(seen) == sorted(item.id for item in audit.evidence)
    page.click('[data-sort="p(given)"]')
    assert float(page.locator("#evidence tbody td.num").first.inner_text()) == values[-1]
    assert page.get_attribute('th:has([data-sort="p(given)"])', "aria-sort") == "descending"
    page.click('[data-sort="p(given)"]')
    assert ids_in_table(page)[0] == max(audit.evidence, key=lambda item: item.suspicion).id


def test_escape_forgets_every_choice(visit):
    audit, page = visit("digits")
    page.click('.kind[data-kind="0"]')
    on_screen(page, audit)
    drag(page, shape_on(page, STAR))
    assert chosen(page) < audit.findings[0].count
    page.keyboard.press("Escape")
    assert chosen(page) == len(audit.evidence)
    assert page.is_disabled("#clear")
    assert page.get_attribute('.kind[data-kind="-1"]', "aria-pressed") == "true"


def test_keyboard_alone_reaches_the_outliers_and_turns_the_page(visit):
    audit, page = visit("digits")
    which = next(i for i, f in enumerate(audit.findings) if f.key == "near_duplicate")

    def tab_to(selector):
        for _ in range(140):
            page.keyboard.press("Tab")
            if page.evaluate("(s) => document.activeElement.matches(s)", selector):
                return
        raise AssertionError(f"{selector} cannot be reached")

    tab_to(f'.kind[data-kind="{which}"]')
    page.keyboard.press("Enter")
    assert chosen(page) == audit.findings[which].count
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    tab_to("[data-sort=id]")
    page.keyboard.press("Space")
    first = ids_in_table(page)
    assert first == sorted(first)
    assert page.evaluate("document.activeElement.dataset.sort") == "id"
    tab_to("#next")
    page.keyboard.press("Enter")
    assert min(ids_in_table(page)) > max(first)


def test_picking_from_the_list_turns_the_table_to_it(visit):
    audit, page = visit("digits")
    point = page.locator("#list button").nth(23)
    wanted = sorted(audit.evidence, key=lambda item: -item.suspicion)[23].id
    point.click()
    assert page.locator("#evidence tr.current td.id").inner_text() == wanted
    assert "21 to 30" in page.inner_text("#where")


@pytest.mark.parametrize("name", ["digits", "hostile text"])
def test_saved_ids_are_those_of_the_list(visit, name):
    audit, page = visit(name)
    points = on_screen(page, audit)
    polygon = shape_on(page, [(0.01, 0.01), (0.62, 0.01), (0.62, 0.99), (0.01, 0.99)])
    within = enclosed(polygon, points)
    drag(page, polygon)
    with page.expect_download() as waiting:
        page.click("#save")
    text = Path(waiting.value.path()).read_bytes().decode("utf-8")
    assert waiting.value.suggested_filename.endswith("-ids.csv")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    expected = [str(i).encode("utf-8", "replace").decode() for i in audit.map.ids[within]]
    assert rows[0] == ["id"]
    assert {row[0] for row in rows[1:]} == set(expected)
    assert len(rows) - 1 == chosen(page) == within.sum() > 0


def test_copied_ids_are_those_of_the_list(visit):
    audit, page = visit("table", permissions=["clipboard-read", "clipboard-write"])
    page.click('.kind[data-kind="0"]')
    page.click("#copy")
    page.wait_for_selector("#count:has-text('copied')")
    copied = page.evaluate("navigator.clipboard.readText()").split("\n")
    assert set(copied) == {f"{row:04d}" for row in np.flatnonzero(audit.map.flags & 1)}


def test_pointing_at_an_unflagged_datapoint_says_below_which_threshold(visit):
    audit, page = visit("digits")
    points = on_screen(page, audit)
    gaps = np.linalg.norm(points[:, None] - points[None, :], axis=2)
    np.fill_diagonal(gaps, np.inf)
    lonely = max(np.flatnonzero(audit.map.flags == 0), key=lambda row: gaps[row].min())
    page.mouse.move(*points[lonely])
    tip = page.inner_text(".tip")
    assert f"{lonely:04d}" in tip
    finding = audit.findings[0]
    value = audit.map.scores[finding.score][lonely]
    assert f"label error {value:.3f}, below the threshold {finding.threshold:.3f}" in tip


def test_pictures_are_those_of_their_datapoints(visit):
    audit, page = visit("digits")
    row = max(audit.evidence, key=lambda item: item.suspicion).row
    shot = page.locator("#evidence tbody .thumb").first.screenshot()
    seen = np.asarray(Image.open(io.BytesIO(shot)).convert("L"), float)[:40, :40]
    cells = seen.reshape(8, seen.shape[0] // 8, 8, seen.shape[1] // 8)[:, 1:-1, :, 1:-1].mean((1, 3))
    np.testing.assert_allclose(cells, np.asarray(audit.picture(row), float), atol=2)


@pytest.mark.parametrize("name", ["hostile text", "hostile table"])
def test_hostile_data_stay_inert_wherever_they_are_shown(visit, name):
    audit, page = visit(name)
    for point in on_screen(page, audit)[:12]:
        page.mouse.move(*point)
    for option in page.locator("#colour option").all():
        page.select_option("#colour", option.get_attribute("value"))
    for i in range(len(audit.findings)):
        page.click(f'.kind[data-kind="{i}"]')
        while page.is_enabled("#next"):
            page.click("#next")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert page.evaluate("document.querySelectorAll('[onerror],[onload]').length") == 0
    assert page.evaluate("getComputedStyle(document.querySelector('#evidence .u')).unicodeBidi") == "isolate"


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["1240", "390"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit, size, scheme):
    others = ("table", "regression", "no findings") if (size, scheme) == (DESK, "light") else ()
    for name in ("digits", "text", *others):
        _, page = visit(name, size, color_scheme=scheme, bypass_csp=True, reduced_motion="reduce")
        page.click("#lasso")
        page.add_script_tag(path=AXE)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        told = [(v["id"], v["nodes"][0]["html"][:160], v["nodes"][0]["failureSummary"]) for v in found]
        assert not told, name
        page.context.close()


@pytest.mark.parametrize("name", ["digits", "text", "table", "hostile text", "hostile table", "200 classes"])
def test_a_phone_never_scrolls_sideways(visit, name):
    _, page = visit(name, PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.select_option("#colour", index=1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("name", ["digits", "text", "table"])
def test_print_has_at_most_six_sheets_thirty_rows_and_no_controls(visit, name):
    _, page = visit(name, color_scheme="dark")
    pdf = page.pdf(format="A4", prefer_css_page_size=True, print_background=True)
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf)) <= 6
    assert page.locator("#evidence tbody tr").count() == 10, "the screen is as it was"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator("#evidence tbody tr").count() == 30
    for control in ("#theme", "#lasso", "#copy", "#save", "#next", "#score", "#clear"):
        assert not page.is_visible(control)
    for part in ("#map", "#evidence", ".intervals >> nth=0", ".kinds"):
        assert page.is_visible(part)
    ink = np.asarray(Image.open(io.BytesIO(page.locator("#map").screenshot())).convert("RGB"), int)
    assert ink[3, 3].min() > 245, "the paper is not white"
    assert (np.ptp(ink, axis=2) > 60).sum() > 300, "no glyph is on the map"


def test_the_button_turns_the_page_dark_and_light_again(visit):
    _, page = visit("digits", color_scheme="light")
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.click("#theme")
    assert page.evaluate(colour) != light
    assert page.inner_text("#theme") == "Light"
    page.click("#theme")
    assert page.evaluate(colour) == light
    _, dark = visit("digits", color_scheme="dark")
    assert dark.inner_text("#theme") == "Light"


def test_forced_colours_and_reduced_motion_are_respected(visit):
    _, page = visit("digits", forced_colors="active", reduced_motion="reduce")
    text, glyph = (page.evaluate(f"getComputedStyle(document.querySelector('{s}')).color") for s in ("h1", ".kind .glyph"))
    assert glyph == text
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    _, moving = visit("digits", reduced_motion="no-preference")
    assert moving.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "smooth"


def test_a_page_without_scripts_still_shows_verdict_proof_and_method(pages, browser):
    audit, path = pages["digits"]
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.inner_text("h1") == audit.verdict
    assert "Northcutt" in page.inner_text("#made")
    assert page.locator("#proof table").count() == len(audit.proof.cards)
    assert page.is_visible("noscript p")
    context.close()
