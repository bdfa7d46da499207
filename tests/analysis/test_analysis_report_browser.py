"""The report in a headless Chromium, without a network: what a reader does to the page, and what the page then shows."""

from pathlib import Path

import pytest
from browser import AXE, EXECUTABLE, Browser
from report_study import small_study
from simulate import Arm

from analysis.load.frames import load
from analysis.report.data import report_data
from analysis.report.page import page

pytestmark = [pytest.mark.browser, pytest.mark.skipif(EXECUTABLE is None, reason="needs Debian's chromium")]

HOSTILE = "</script><script>window.hurt=1</script><img src=x onerror=window.hurt=1>"
ARMS = {
    "vanilla": Arm(collapse_probability=0.999),
    "kl_penalty": Arm({"ppo.kl_penalty": True}, collapse_probability=0.001),
    '<img src=x onerror="window.hurt=1">': Arm({"ppo.reward_norm": True}, collapse_probability=0.5),
}
LIGHT, DARK = "rgb(253, 252, 249)", "rgb(20, 23, 26)"
PANELS = ["#curve-panels figure", "#forest figure", "#thresholds", "#survival-panel", "#over-panels figure"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict:
    folder = small_study(tmp_path_factory.mktemp("results"), arms=ARMS, seeds=3, hostile=HOSTILE)
    return report_data(load(folder), "study")


@pytest.fixture(scope="module")
def path(data, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(data, built="today"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def chromium():
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(chromium, path):
    """The page just opened, nothing remembered; at the end nobody may have complained or asked for anything else."""
    chromium.look(1280)
    chromium.complaints.clear()
    chromium.requests.clear()
    chromium.open(path)
    yield chromium
    assert chromium.complaints == []
    assert set(chromium.requests) <= {path.resolve().as_uri(), "data:,"}
    assert chromium.run("sessionStorage.clear(); window.hurt") is None


def count(browser: Browser, selector: str) -> int:
    return browser.run(f"document.querySelectorAll({selector!r}).length")


def click(browser: Browser, selector: str, **event: bool) -> None:
    keys = ", ".join(f"{key}: true" for key in event)
    browser.run(f"document.querySelector({selector!r}).dispatchEvent(new MouseEvent('click', {{bubbles: true, {keys}}}))")


def texts(browser: Browser) -> list[str]:
    return browser.run("[...document.querySelectorAll('#text-cards .answer')].map(node => node.textContent)")


def choose(browser: Browser, selector: str, value: object, event: str = "change") -> None:
    browser.run(
        f"{{ const node = document.querySelector({selector!r}); node.value = {str(value)!r}; node.dispatchEvent(new Event({event!r})); }}"
    )


def first_panel(browser: Browser) -> tuple[float, float, float, float]:
    """Left, top, width and height in the window of the first curve, brought into sight."""
    browser.run("document.querySelector('#curve-panels svg').scrollIntoView({block: 'center'})")
    found = browser.run("document.querySelector('#curve-panels svg').getBoundingClientRect().toJSON()")
    return found["left"], found["top"], found["width"], found["height"]


def test_every_panel_is_drawn_and_hostile_names_are_text(browser):
    assert count(browser, "#curve-panels svg path.line") == 3 * count(browser, "#curve-panels figure") > 0
    assert count(browser, "#forest svg circle") > 0 and count(browser, "#survival-panel svg path.line") == 3
    assert count(browser, "#thresholds svg path.line") == 3 and count(browser, "#over-panels svg path.line") == 3
    assert browser.run("[...document.querySelectorAll('#legend span')].map(node => node.textContent)").count(list(ARMS)[2]) == 1
    assert count(browser, "img") == 0


def test_the_legend_hides_an_arm_in_every_panel_table_of_runs_and_text(browser):
    for panel in PANELS:
        assert count(browser, f"{panel} svg [data-arm='1']") > 0
    cards, runs = count(browser, "#text-cards .card"), count(browser, "#run-table tbody tr:not([hidden])")
    click(browser, "#legend [data-legend='1']")
    for panel in PANELS:
        assert count(browser, f"{panel} svg [data-arm='1']") == 0 < count(browser, f"{panel} svg [data-arm='2']")
    assert count(browser, "#text-cards .card") == cards - 1 and count(browser, "#run-table tbody tr:not([hidden])") == runs - 3
    click(browser, "#legend [data-legend='0']", shiftKey=True)
    assert count(browser, "#curve-panels svg path.line") == count(browser, "#curve-panels figure")
    click(browser, "#no-arms")
    assert count(browser, "svg.chart [data-arm]") == 0
    click(browser, "#all-arms")
    assert count(browser, "#survival-panel svg path.line") == 3


def test_seeds_and_intervals_can_be_hidden(browser):
    """Three seeds are few: the page opens without bands."""
    assert count(browser, "#curve-panels svg .seed") > 0 == count(browser, "#curve-panels svg .band")
    click(browser, "#show-bands")
    assert count(browser, "#curve-panels svg .band") > 0
    for box, kind in (("#show-seeds", "seed"), ("#show-bands", "band")):
        click(browser, box)
        assert count(browser, f"#curve-panels svg .{kind}") == 0


def test_a_free_panel_shows_the_metric_chosen_and_a_scale_may_be_logarithmic(browser):
    choose(browser, "#curve-panels .free select", "ppo/clip_fraction")
    assert count(browser, "#curve-panels figure[data-metric='ppo/clip_fraction'] path.line") == 3
    before = browser.run("document.querySelector('[data-metric=\"monitor/kl_to_sft\"] path.line').getAttribute('d')")
    click(browser, '[data-metric="monitor/kl_to_sft"] button')
    assert browser.run("document.querySelector('[data-metric=\"monitor/kl_to_sft\"] path.line').getAttribute('d')") != before
    assert browser.run("document.querySelector('[data-metric=\"eval/gold\"] button').hidden") is True  # gold is negative in places


def test_the_filter_keeps_runs_with_all_of_its_words(browser):
    def rows() -> int:
        return count(browser, "#run-table tbody tr:not([hidden])")

    assert rows() == 9
    choose(browser, "#run-filter", "KL_PENALTY completed", "input")
    assert rows() == 3 and browser.run("document.querySelector('#run-count').textContent") == "3 of 9 runs"
    choose(browser, "#run-filter", "nothing at all", "input")
    assert rows() == 0


def test_a_click_on_a_head_sorts_by_number_and_back(browser):
    def golds() -> list[float]:
        shown = "[...document.querySelectorAll('#run-table tbody tr')].map(row => Number(row.cells[5].dataset.sort))"
        return browser.run(shown)

    unsorted = golds()
    click(browser, "#run-table thead th:nth-child(6) button")
    assert golds() == sorted(unsorted) != unsorted
    click(browser, "#run-table thead th:nth-child(6) button")
    assert golds() == sorted(unsorted, reverse=True)
    assert browser.run("document.querySelector('#run-table th:nth-child(6)').getAttribute('aria-sort')") == "descending"


def test_the_slider_moves_all_answers_to_its_update(browser):
    assert texts(browser)[0] == "what SFT says to 1" and texts(browser)[1].startswith("answer 1 of vanilla seed=0 at 80 ")
    choose(browser, "#text-update", 4, "input")
    assert "answer 1 of vanilla seed=0 at 40" in texts(browser)[1] and HOSTILE in texts(browser)[1]
    assert browser.run("document.querySelector('#text-update-name').textContent") == "update 40"
    choose(browser, "#text-seed", 2)
    choose(browser, "#text-prompt", 0)
    assert all("answer 0 of" in text and "seed=2 at 40" in text for text in texts(browser)[1:])
    choose(browser, "#text-update", 0, "input")
    assert texts(browser) == ["what SFT says to 0"] * 3


def test_one_arm_can_be_read_over_all_updates(browser):
    choose(browser, "#text-view", "updates")
    choose(browser, "#text-arm", 1)
    shown = texts(browser)
    assert len(shown) == 9 and all(f"at {10 * (index + 1)} " in text for index, text in enumerate(shown[1:]))
    assert browser.run("document.querySelector('#text-slider').hidden") is True


def test_two_arms_stand_side_by_side_with_the_words_marked_that_the_other_lacks(browser):
    """Answers are `answer 1 of ARM seed=0 at 80 …`: they differ in the arm alone, but for the hostile end, which both have."""
    choose(browser, "#text-view", "pair")
    choose(browser, "#text-other", browser.run("names.indexOf('kl_penalty')"))
    assert browser.run("[...document.querySelectorAll('#text-cards mark')].map(node => node.textContent)") == ["vanilla", "kl_penalty"]
    apart = browser.run("[...document.querySelectorAll('#text-cards .apart')].map(node => node.textContent)")
    assert apart[0] == apart[1] and apart[0].startswith("1 of ")
    shown = texts(browser)
    assert [text.split()[3] for text in shown] == ["vanilla", "kl_penalty"] and all(HOSTILE in text for text in shown)
    style = "getComputedStyle(document.querySelector('#text-cards mark'))"
    assert browser.run(f"{style}.textDecorationLine") == "underline" and browser.run(f"{style}.borderTopStyle") == "solid"
    choose(browser, "#text-other", -1)
    assert texts(browser)[1] == "what SFT says to 1"
    choose(browser, "#text-other", 0)
    assert count(browser, "#text-cards mark") == 0 and count(browser, "#text-cards .card") == 2


def test_the_longest_common_subsequence_is_what_is_not_marked(browser):
    kept = browser.run("common([...'abcbdab'], [...'bdcaba']).map(flags => flags.filter(Boolean).length)")
    assert kept == [4, 4] and browser.run("common([], ['a'])") == [[], [False]]
    assert browser.run("common(['a', 'b'], ['a', 'b'])") == [[True, True], [True, True]]


def test_each_token_has_its_strips_its_number_and_a_label_with_every_measure(browser):
    assert count(browser, "#token-answers .spelled") == 2 and count(browser, "#token-answers .token") == 6
    first = "document.querySelectorAll('#token-answers .token')"
    spoken = f"{first}[1].querySelector('.spoken').textContent"
    assert browser.run(spoken) == ": value 0.5, advantage −1, reward 0, KL to SFT 0.1"
    assert browser.run(f"[...{first}].slice(0, 3).map(node => node.querySelector('.number').textContent)") == ["1", "−1", "1"]
    strips = browser.run(f"[...{first}[1].querySelectorAll('.strips i')].map(node => node.className)")
    assert strips == ["", "minus", "", ""]
    hatched = browser.run(f"[...{first}[1].querySelectorAll('.strips i')].map(node => getComputedStyle(node).backgroundImage !== 'none')")
    assert hatched == [False, True, False, False]  # so that the sign is told without colour
    choose(browser, "#token-printed", "kl")
    assert browser.run(f"[...{first}].slice(0, 3).map(node => node.querySelector('.number').textContent)") == ["0", "0.1", "0.2"]
    choose(browser, "#token-update", 0)
    assert browser.run(spoken) == ": value 0.5, advantage 0, reward 0, KL to SFT 0.1"
    choose(browser, "#token-other", "")
    assert count(browser, "#token-answers .spelled") == 1


def test_a_seed_with_prompts_of_its_own_brings_one_of_them(chromium, data, tmp_path):
    answers = [[prompts[0], [None] * 3] if run["draw"] == 0 else [[None] * 3, prompts[1]]
               for run, prompts in zip(data["runs"]["rows"], data["tokens"]["answers"], strict=True)]  # fmt: skip
    other = tmp_path / "worlds.html"
    other.write_text(page({**data, "tokens": {**data["tokens"], "answers": answers}}, built="today"), encoding="utf-8")
    chromium.open(other)
    shown = "document.querySelector('#token-shown-prompt').textContent"
    prompts, disabled = data["tokens"]["prompts"], "[...document.querySelectorAll('#token-prompt option')].map(option => option.disabled)"
    assert chromium.run(shown) == prompts[0] and chromium.run(disabled) == [False, True]
    choose(chromium, "#token-seed", 1)
    assert chromium.run(shown) == prompts[1] and chromium.run(disabled) == [True, False]
    assert count(chromium, "#token-answers .spelled") == 2


def test_arrow_keys_go_from_token_to_token_and_tell_its_measures(browser):
    browser.ask("Emulation.setFocusEmulationEnabled", enabled=True)
    browser.run("document.querySelector('#token-answers .token').focus()")
    browser.press("ArrowRight")
    assert browser.run("document.activeElement.querySelector('.word').textContent") == " t1"
    told = browser.run("document.querySelector('#tooltip').hidden ? '' : document.querySelector('#tooltip').textContent")
    assert told == "token 2 of 3: t1value 0.5advantage −1reward 0KL to SFT 0.1"
    assert browser.run("[...document.querySelectorAll('#token-answers .tokens')[0].children].map(node => node.tabIndex)") == [-1, 0, -1]
    browser.press("End")
    assert browser.run("document.activeElement.querySelector('.word').textContent") == " t2"
    browser.run("document.activeElement.blur()")
    assert browser.run("document.querySelector('#tooltip').hidden") is True


def test_arrow_keys_tell_the_values_of_a_curve_and_zoom_it(browser):
    browser.ask("Emulation.setFocusEmulationEnabled", enabled=True)
    browser.run("document.querySelector('#curve-panels svg').focus()")
    browser.press("End")
    told = "document.querySelector('#tooltip').textContent"
    assert browser.run(told).startswith("update 80") and all(arm in browser.run(told) for arm in ARMS)
    browser.press("ArrowLeft")
    assert browser.run(told).startswith("update 75")
    browser.press("+")
    assert browser.run("state.zoom") == [55, 80] and browser.run("document.activeElement.matches('#curve-panels svg')") is True
    browser.press("-")
    assert browser.run("state.zoom") is None
    browser.run("document.querySelector('#forest svg').focus()")
    rows = browser.run("data.effects[0].rows.map(row => row.label)")
    for label in (*rows, rows[-1]):
        browser.press("ArrowDown")
        assert browser.run(told).startswith(f"{label}: ")


def test_alarms_are_marked_on_the_curves_of_their_monitors_and_can_be_hidden(chromium, data, tmp_path):
    sounded = [{"entropy": 40} if run["arm"] == 0 else {} for run in data["runs"]["rows"]]
    marked = tmp_path / "marked.html"
    marked.write_text(page({**data, "alarms": {**data["alarms"], "sounded": sounded}}, built="today"), encoding="utf-8")
    chromium.open(marked)
    assert count(chromium, "#curve-panels .alarm") == 1 == count(chromium, "[data-metric='monitor/entropy'] .alarm[data-arm='0']")
    assert chromium.run("document.querySelector('.alarm').getAttribute('d').split('z').length - 1") == 3
    click(chromium, "#show-alarms")
    assert count(chromium, "#curve-panels .alarm") == 0
    click(chromium, "#show-alarms")
    click(chromium, "#legend [data-legend='0']")
    assert count(chromium, "#curve-panels .alarm") == 0


@pytest.mark.skipif(AXE is None, reason="needs axe-core: npm install axe-core")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_no_serious_violation(browser, path, width, dark):
    browser.look(width, dark=dark, phone=width == 390)
    browser.open(path)
    choose(browser, "#text-view", "pair")
    assert browser.violations(AXE) == []


def test_in_print_everything_is_light_and_within_the_paper(browser, path):
    browser.look(720, dark=True)
    browser.open(path)
    browser.ask("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    try:
        assert browser.run("getComputedStyle(document.querySelector('h1')).color") == "rgb(28, 29, 31)"
        assert browser.run("getComputedStyle(document.querySelector('nav')).display") == "none"
        assert browser.run("getComputedStyle(document.querySelector('#legend')).position") == "static"
        assert browser.run("document.documentElement.scrollWidth") <= 720
        wide = "table => table.scrollWidth > table.parentNode.clientWidth + 1"
        assert browser.run(f"[...document.querySelectorAll('table')].filter({wide}).map(table => table.id)") == []
    finally:
        browser.ask("Emulation.setEmulatedMedia", media="")


def test_an_answer_is_shown_whole_with_the_pairs_it_repeats_marked(browser):
    browser.run("""window.marked = text => {
        const node = document.createElement("p");
        write(node, text);
        return [node.textContent, [...node.querySelectorAll(".again")].map(found => found.textContent)];
    }""")
    assert browser.run("marked('a b c a b d')") == ["a b c a b d", ["a b"]]
    assert browser.run("marked('a b a b a b')") == ["a b a b a b", ["a b a b"]]
    assert browser.run("marked('a  b , c\\nd a  b')")[0] == "a  b , c\nd a  b"
    assert browser.run("marked('好的好的')") == ["好的好的", ["好的"]]


def test_the_pointer_tells_the_values_at_its_update(browser, data):
    left, top, width, height = first_panel(browser)
    browser.mouse("mouseMoved", left + 44 + (width - 52) / 2, top + height / 2)
    told = browser.run("document.querySelector('#tooltip').hidden ? '' : document.querySelector('#tooltip').textContent")
    assert told.startswith("update 40") and all(arm in told for arm in ARMS)
    metric = data["curves"]["metrics"]["eval/gold"]
    value = browser.run(
        "[...document.querySelectorAll('#tooltip .row')].map(row => row.textContent).find(text => text.includes('vanilla'))"
    )
    mean = metric["mean"][0][metric["x"].index(40)]
    assert f"{mean:.3g}".replace("-", "−").rstrip("0") in value and "(3)" in value
    browser.mouse("mouseMoved", 5, 5)
    assert browser.run("document.querySelector('#tooltip').hidden") is True


def test_dragging_across_a_panel_zooms_all_curves_and_the_button_returns(browser):
    left, top, width, height = first_panel(browser)
    browser.mouse("mouseMoved", left + width * 0.4, top + height / 2)
    browser.mouse("mousePressed", left + width * 0.4, top + height / 2)
    browser.mouse("mouseMoved", left + width * 0.6, top + height / 2)
    browser.mouse("mouseReleased", left + width * 0.6, top + height / 2)
    low, high = browser.run("state.zoom")
    assert 15 < low < 40 < high < 60 and browser.run("document.querySelector('#unzoom').hidden") is False
    click(browser, "#unzoom")
    assert browser.run("state.zoom") is None


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_width_and_no_theme_scrolls_sideways(browser, path, width, dark):
    browser.look(width, dark=dark, phone=width == 390)
    browser.open(path)
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.run("getComputedStyle(document.documentElement).backgroundColor") == (DARK if dark else LIGHT)
    if width == 390:
        assert browser.run("(table => table.scrollWidth > table.parentNode.clientWidth)(document.querySelector('#run-table'))")


def test_the_button_changes_between_light_and_dark(browser):
    click(browser, "#theme")
    assert browser.run("getComputedStyle(document.documentElement).backgroundColor") == DARK
    assert browser.run("getComputedStyle(document.querySelector('#survival-panel path.line')).stroke") == "rgb(133, 133, 133)"
    click(browser, "#theme")
    assert browser.run("getComputedStyle(document.documentElement).backgroundColor") == LIGHT


def test_a_watched_page_reloads_itself_until_the_watch_has_ended(chromium, data, tmp_path):
    watched = tmp_path / "watched.html"
    watched.write_text(page(data, built="first", reload_seconds=1), encoding="utf-8")
    chromium.open(watched)
    watched.write_text(page(data, built="last"), encoding="utf-8")
    for _ in range(2):  # one load may have begun before the page was replaced
        if chromium.run("document.documentElement.dataset.reload") != "0":
            chromium.wait_for_load()
    assert chromium.run("document.querySelector('#facts').textContent").endswith("built last")


def test_a_rebuilt_page_keeps_what_the_reader_chose(chromium, data, tmp_path):
    watched = tmp_path / "watched.html"
    watched.write_text(page(data, built="first", reload_seconds=3600), encoding="utf-8")
    chromium.look(1280)
    chromium.open(watched)
    click(chromium, "#legend [data-legend='1']")
    choose(chromium, "#run-filter", "vanilla", "input")
    choose(chromium, "#text-update", 4, "input")
    chromium.run("scrollTo(0, 900)")
    watched.write_text(page(data, built="second", reload_seconds=3600), encoding="utf-8")
    chromium.open(watched)
    assert "built second" in chromium.run("document.querySelector('#facts').textContent")
    assert chromium.run("document.querySelector('#legend [data-legend=\"1\"]').getAttribute('aria-pressed')") == "false"
    assert count(chromium, "#curve-panels svg [data-arm='1']") == 0 and count(chromium, "#run-table tbody tr:not([hidden])") == 3
    assert chromium.run("document.querySelector('#text-update-name').textContent") == "update 40"
    assert chromium.run("Math.round(scrollY)") == 900
    assert chromium.complaints == []
