"""The report: what its page says, that it loads nothing, that it takes every study as it comes, and how it follows a sweep."""

import base64
import hashlib
import json
import re
import time
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from report_study import PROMPTS, small_study, unfinish
from scipy import stats
from simulate import CONFIG, Arm, override, write_study

from ablate.runs.alarms import ALARMS
from ablate.sweeps.study import load_study
from analysis.claims.answer import arm_answers
from analysis.claims.study import study_verdicts
from analysis.figures.style import PALETTE, arm_colours, arm_order
from analysis.load.frames import load
from analysis.report import alarms, curves, texts, tokens
from analysis.report.__main__ import main
from analysis.report.data import arms_at_start, gold_lines, on_dark, report_data, setup
from analysis.report.page import page
from analysis.report.watch import marks, watch, write_page

HOSTILE = "</script><script>window.hurt=1</script><img src=x onerror=window.hurt=1>{{ runs }}{% if 1 %}\u2028"


class Parsed(HTMLParser):
    """Elements with their attributes as a browser's parser would find them, and what each script and style element holds."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.held: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag in self.held:
            self.held[tag].append("")

    def handle_data(self, data):
        if self.cdata_elem:
            self.held[self.cdata_elem][-1] += data


def data_of(study: Path, **options) -> dict:
    loaded = load(study)
    return report_data(loaded, loaded.runs["study"].iloc[0], **options)


def page_of(study: Path, **options) -> str:
    return page(data_of(study), built="today", **options)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    return small_study(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def data(study) -> dict:
    return data_of(study)


@pytest.fixture(scope="module")
def text(data) -> str:
    return page(data, built="today")


def test_the_page_holds_every_arm_and_every_verdict_with_its_sentence(data, text):
    assert {arm["arm"] for arm in data["arms"]} == {"vanilla", "kl_penalty"}
    assert len(data["claims"]) >= 2
    said = unescape(text)
    for claim in data["claims"]:
        assert claim["text"] in said
        for part in claim["parts"]:
            assert f"</b> {part['verdict']}</span> <span>{part['sentence']}" in said
    assert text.index('id="answer"') < text.index('id="claims"') < text.index('id="curves"') < text.index('id="text"')


def test_the_page_opens_with_the_question_and_the_answer(tmp_path, data, text):
    assert "Given one reward model, vanilla collapsed in 5 of 5 runs; fewer runs collapse with kl_penalty (0 of 5)" in unescape(text)
    places = [unescape(text).index(f'<p class="lead">{sentence}') for sentence in data["answer"]]
    assert places == sorted(places) and places[-1] < text.index('id="arms-table"') < text.index('id="claims"')
    assert "arXiv:2307.04964" in text and 'class="question"' not in text  # a study of this name has no file with a question
    known = unescape(page_of(small_study(tmp_path, seeds=2, study="kl_coef"), command="python -m analysis.report here"))
    assert f'<p class="question">{load_study("kl_coef").question}</p>' in known
    assert "python -m ablate.run -m sweep=kl_coef 'seed=range(2)'</code>" in known and "python -m analysis.report here</code>" in known


def test_the_table_of_arms_says_the_numbers_of_the_answer(study, data, text):
    verdicts = study_verdicts(load(study), "study")
    table = arm_answers(verdicts)
    assert [data["arms"][row["arm"]]["arm"] for row in data["answers"]] == list(table["arm"])
    body = text[text.index('<table id="arms-table"') : text.index('id="claims"')]
    for row in table.to_dict("records"):
        mean, low, high = (f"{row[name]:.2f}".replace("-", "−") for name in ("gold_gain", "gold_gain_low", "gold_gain_high"))
        assert f"{mean} <small>[{low}, {high}]</small>" in body
        assert f"{mean.replace('−', '-')} [" in data["answer"][1]


def test_a_mean_is_over_reward_models_where_an_arm_has_several():
    values = np.array([[1.0, 1.0], [3.0, np.nan], [10.0, 4.0]])
    models = np.array(["a", "a", "b"])
    assert curves.per_unit(values, models).tolist() == [[2, 1], [10, 4]]
    assert curves.per_unit(values, np.array(["a", "a", "a"])) is values


def test_runs_of_one_seed_with_two_reward_models_are_two_runs_on_the_page(tmp_path):
    folder = small_study(tmp_path, seeds=2)
    for path in sorted(folder.glob("*/seed=1/config.yaml")):  # the second run of each arm becomes seed 0 with another reward model
        arm = path.parent.parent.name
        other = folder / f"{arm},pipeline_seed=7" / "seed=0"
        other.parent.mkdir()
        path.parent.rename(other)
        config = yaml.safe_load((other / "config.yaml").read_text())
        (other / "config.yaml").write_text(yaml.safe_dump(config | {"arm": other.parent.name, "seed": 0, "pipeline_seed": 7}))
    for path in folder.glob("*/seed=0/config.yaml"):
        config = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({"pipeline_seed": 0} | config))
    found = data_of(folder)
    assert [arm["arm"] for arm in found["arms"]] == ["vanilla", "kl_penalty"] and len(found["runs"]["rows"]) == 4
    assert found["texts"]["seeds"] == ["seed 0, pipeline_seed=0", "seed 0, pipeline_seed=7"]
    assert [row["draw"] for row in found["runs"]["rows"]] == 2 * found["texts"]["seeds"]
    gold = found["curves"]["metrics"]["eval/gold"]
    assert gold["n"][0][-1] == 2 and gold["mean"][0][-1] == pytest.approx(np.mean([gold["seeds"][0][-1], gold["seeds"][1][-1]]), rel=1e-3)
    assert "2 reward models, one seed each" in page(found, built="today")


def test_gold_lines_are_means_over_runs_with_the_least_and_the_greatest():
    runs = pd.DataFrame({"sft/eval/gold": [1.0, 3.0], "sft/eval/gold_sd": [2.0, 1.0], "collapse.threshold": [1.0, 1.0]})
    assert gold_lines(runs) == {"sft": [2, 1, 3], "limit": [0.5, -1, 2]}
    assert gold_lines(runs.drop(columns="collapse.threshold"))["limit"] is None


def test_of_many_arms_those_that_differ_from_the_base_are_drawn_at_the_start():
    index = {name: place for place, name in enumerate("abcdefg")}
    answers = pd.DataFrame({"arm": list("agfedcb"), "versus": ["base", "fewer", "", "", "more", "", ""],
                            "gold_versus": ["", "", "", "lower", "", "", ""]})  # fmt: skip
    assert arms_at_start(answers, index) == [0, 3, 4, 6]
    assert arms_at_start(answers[:6], index) == [0, 2, 3, 4, 5, 6]


def test_the_page_loads_nothing_and_runs_nothing_but_its_own_script_and_style(text):
    parsed = Parsed(text)
    addresses = [
        value for _, given in parsed.elements for name, value in given.items() if name in ("src", "href", "action", "srcset", "data")
    ]
    assert all(address == "data:," or re.fullmatch("#[a-z]+", address) for address in addresses)
    (style,), (_, script) = parsed.held["style"], parsed.held["script"]
    assert not re.search(r"@import|url\(", style)
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|WebSocket|https?://(?!www\.w3\.org/2000/svg)", script)
    (policy,) = (given["content"] for tag, given in parsed.elements if given.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for tag, content in (("style", style), ("script", script)):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not [name for _, given in parsed.elements for name in given if name.startswith("on") or name == "style"]


def test_hostile_names_prompts_and_answers_stay_text(tmp_path):
    arms = {'<img src=x onerror="window.hurt=1">': Arm(collapse_probability=0.9), "a&b'\"": Arm({"ppo.kl_penalty": True})}
    folder = small_study(tmp_path, arms=arms, seeds=2, hostile=HOSTILE, study="<b>study")
    parsed = Parsed(page_of(folder))
    assert not {"img", "b><script"} & {tag for tag, _ in parsed.elements}
    assert [tag for tag, _ in parsed.elements].count("script") == 2
    held = json.loads(parsed.held["script"][0])
    assert {arm["arm"] for arm in held["arms"]} == set(arms) and held["study"] == "<b>study"
    assert held["texts"]["prompts"] == [prompt + HOSTILE for prompt in PROMPTS]
    assert any(HOSTILE in string for string in held["texts"]["strings"])


def test_curves_hold_every_seed_to_four_digits_and_only_what_was_measured(study, data):
    loaded = load(study)
    metric = data["curves"]["metrics"]["eval/gold"]
    assert metric["x"] == list(range(0, 81, 5))
    runs = [f"study/{data['arms'][run['arm']]['arm']}/seed={run['seed']}" for run in data["runs"]["rows"]]
    for run, values in zip(runs, metric["seeds"], strict=True):
        expected = loaded.curves[(loaded.curves["run"] == run)].set_index("update")["eval/gold"].dropna()
        assert values == pytest.approx(expected.to_numpy(), rel=1e-3)
    assert data["curves"]["metrics"]["monitor/entropy"]["x"] == list(range(1, 81))
    assert data["curves"]["fixed"] == list(curves.FIXED)


def test_bands_are_scipys_t_intervals_over_the_seeds_that_were_measured():
    values = np.random.default_rng(0).normal(size=(6, 4))
    values[2:, 1], values[1:, 2], values[:, 3] = np.nan, np.nan, np.nan
    mean, half = curves.mean_and_half_width(values)
    for column, n in ((0, 6), (1, 2)):
        seen = values[:n, column]
        low, high = stats.t.interval(0.95, n - 1, loc=seen.mean(), scale=stats.sem(seen))
        assert (mean[column] - half[column], mean[column] + half[column]) == pytest.approx((low, high), rel=1e-12)
    assert mean[2] == values[0, 2] and np.isnan([half[2], mean[3], half[3]]).all()


def test_numbers_are_shortened_to_their_leading_digits():
    assert curves.short([1.23456, -0.000123456, 98765.4, 0.0, np.nan, np.inf, 3.0]) == [1.235, -0.0001235, 98770, 0, None, None, 3]
    assert json.dumps(curves.short([[2.0, 0.1 + 0.2]])) == "[[2, 0.3]]"


def test_a_large_study_keeps_fewer_updates_and_says_so(study, monkeypatch):
    monkeypatch.setattr(curves, "MAX_NUMBERS", 4_000)
    found = data_of(study)
    kept = found["curves"]["metrics"]["monitor/entropy"]["x"]
    assert found["curves"]["every"] > 1 and kept[-1] == 80
    assert all(update % found["curves"]["every"] == 0 for update in kept[:-1])
    assert f"one update in {found['curves']['every']} is shown" in page(found, built="today")


def test_arms_are_drawn_in_the_order_and_colours_of_the_figures(study, data):
    runs = load(study).runs
    order = arm_order(runs)
    assert [arm["arm"] for arm in data["arms"]] == order
    assert {arm["arm"]: arm["colour"][0] for arm in data["arms"]} == arm_colours(order)


def test_another_base_comes_first_and_is_compared_with(study):
    found = data_of(study, base="kl_penalty")
    assert found["arms"][0]["arm"] == "kl_penalty" and found["arms"][0]["change"] == ""
    assert {row["label"] for panel in found["effects"] for row in panel["rows"]} == {"vanilla"}
    assert "<h2>Effects against kl_penalty</h2>" in page(found, built="today")


def test_colours_on_dark_paper_have_the_contrast_asked_for():
    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for colour in PALETTE:
        assert (luminance(on_dark(colour)) + 0.05) / (luminance("#14171a") + 0.05) > 4.4
    assert on_dark("#56B4E9") == "#56b4e9"


def test_the_run_table_shows_the_settings_that_differ_and_marks_those_of_the_base(data, text):
    assert data["runs"]["settings"] == ["ppo.kl_penalty"]
    body = text[text.index('<table id="run-table"') :]
    body = body[: body.index("</table>")]
    assert body.count("<tr") == 11 and ">kl_penalty<" in body and "gae_lambda" not in body
    base = data["runs"]["base"][0]
    assert body.count(f'class="same">{base}</td>') == 5 and body.count(f'class="same">{base == "False"}') == 0


def test_a_run_still_going_is_shown_and_said_to_have_no_end(tmp_path):
    folder = small_study(tmp_path)
    unfinish(folder / "vanilla" / "seed=4", 21)
    found = data_of(folder)
    text = page(found, built="today")
    assert text.count("1 of 10 runs have not ended") == 1
    assert "metrics.jsonl: torn last line left out" in text
    assert [(row["updates"], row["gold"]) for row in found["runs"]["rows"] if row["status"] == "running"] == [(20, None)]
    assert "1 unfinished of 5" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"without": ("eval/",)}, "Nothing is known about collapse yet"),
        ({"seeds": 2}, "Some arms have fewer than 5 units of inference"),
        ({"seeds": 1}, "No early warning can be learned"),
        ({"arms": {"vanilla": Arm(collapse_probability=0.999)}}, "vanilla collapsed in 5 of 5 runs."),
        ({"arms": {"only": Arm()}, "seeds": 1}, "only collapsed in 0 of 1 runs."),
    ],
    ids=["no gold", "two seeds", "one seed", "one arm", "one run"],
)
def test_a_study_without_something_is_still_a_page(tmp_path, options, said):
    assert said in page_of(small_study(tmp_path, **options))


def test_runs_seen_at_their_first_evaluations_only_are_still_a_page(tmp_path):
    folder = small_study(tmp_path)
    for run in folder.glob("*/seed=*"):
        unfinish(run, 6 if run.name == "seed=0" else 11)
    found = data_of(folder)
    assert all(entry["fit"] is None or entry["fit"]["basis"] == "5 seeds, one reward model" for entry in found["over"])
    assert "Nothing is known about collapse yet" in page(found, built="today")


def test_runs_without_samples_are_still_a_page(tmp_path):
    folder = small_study(tmp_path)
    for path in folder.glob("*/seed=*/samples.jsonl"):
        path.unlink()
    assert data_of(folder)["texts"] is None


def test_the_text_opens_with_the_prompt_whose_gold_falls_most(data):
    assert data["texts"]["default"] == [1, 0]  # the second prompt's gold falls, see report_study
    strings, answers = data["texts"]["strings"], data["texts"]["answers"]
    assert strings.count("what SFT says to 1") == 1
    first, last = answers[0][1][0], answers[0][1][-1]
    assert strings[first[0]] == "what SFT says to 1" and first[1:] == [0.5, 1, 9]
    assert strings[last[0]].startswith("answer 1 of") and last[2] == -1


def answers_at(updates: range, seeds: range, response: str = "yes") -> pd.DataFrame:
    rows = [dict(run=f"s/a/seed={seed}", arm="a", seed=seed, update=update, prompt="why ?", response=response, gold=1.0)
            for seed in seeds for update in updates]  # fmt: skip
    return pd.DataFrame(rows)


def test_texts_keep_sixteen_evaluations_with_the_first_and_the_last():
    runs = pd.DataFrame({"run": ["s/a/seed=0"], "seed": [0], "reward_model": [""]})
    found = texts.text_data(runs, answers_at(range(0, 151, 5), range(1)))
    assert len(found["updates"]) == 16 and found["updates"][0] == 0 and found["updates"][-1] == 150
    assert found["of"] == {"updates": 31, "seeds": 1}


def test_texts_leave_out_the_last_seeds_and_the_ends_of_long_answers(monkeypatch):
    monkeypatch.setattr(texts, "MAX_ANSWERS", 10)
    runs = pd.DataFrame({"run": [f"s/a/seed={seed}" for seed in range(4)], "seed": range(4), "reward_model": [""] * 4})
    found = texts.text_data(runs, answers_at(range(0, 20, 5), range(4), "x" * 700))
    assert found["seeds"] == [0, 1] and found["answers"][2] is None and found["of"]["seeds"] == 4
    assert found["strings"] == ["x" * 600 + " …"]


def token_rows(lengths: dict[str, int], updates: range = range(1)) -> pd.DataFrame:
    rows = []
    for seed, (run, length) in enumerate(lengths.items()):
        of_run = dict(run=run, arm="a", seed=seed, prompt="why ?", length=length + 1, tokens=["t"] * length, kl=[0.5] * length)
        rows += [{**of_run, "update": update, "value": None, "advantage": None, "reward": None} for update in updates]
    return pd.DataFrame(rows)


def runs_of(count: int) -> pd.DataFrame:
    return pd.DataFrame({"run": [f"s/a/seed={n}" for n in range(count)], "seed": range(count), "reward_model": [""] * count})


def test_tokens_are_held_with_their_measures_and_the_whole_answers_length(data):
    found = data["tokens"]
    assert found["prompts"] == list(PROMPTS) and found["updates"] == [0, 40, 80] and found["of"] == {"updates": 3, "seeds": 5}
    cell = found["answers"][0][1][1]
    assert [found["strings"][token] for token in cell["tokens"]] == ["vanilla", " t1", " t2"] and cell["length"] == 3
    assert (cell["value"], cell["advantage"], cell["reward"], cell["kl"]) == ([0.5] * 3, [0.5, -0.5, 0.5], [0, 0, 2], [0, 0.1, 0.2])
    assert found["scale"]["value"] == 0.5 and found["scale"]["reward"] == 2


def test_tokens_are_few_seeds_and_then_the_beginnings_of_answers(monkeypatch):
    monkeypatch.setattr(tokens, "MAX_TOKENS", 60)
    found = tokens.token_data(runs_of(3), token_rows({f"s/a/seed={n}": 25 for n in range(3)}))
    assert found["seeds"] == [0, 1] and found["answers"][2] is None and found["longest"] == 25
    found = tokens.token_data(runs_of(1), token_rows({"s/a/seed=0": 50}, range(3)))
    assert found["longest"] == 20 and [len(cell["tokens"]) for cell in found["answers"][0][0]] == [20] * 3
    assert [cell["length"] for cell in found["answers"][0][0]] == [51] * 3 and found["scale"]["value"] is None


def test_tokens_whose_lists_differ_in_length_are_left_out_and_no_tokens_are_none():
    rows = token_rows({"s/a/seed=0": 5, "s/a/seed=1": 5})
    rows.at[1, "kl"] = [0.5] * 4
    assert tokens.token_data(runs_of(2), rows)["seeds"] == [0]
    silent = tokens.token_data(runs_of(1), token_rows({"s/a/seed=0": 0}))  # an answer of no token
    assert silent["answers"][0][0][0]["tokens"] == [] and silent["scale"]["kl"] is None
    assert tokens.token_data(runs_of(2), rows.iloc[:0]) is None
    assert tokens.token_data(runs_of(2), pd.DataFrame(columns=["run", "arm", "seed"])) is None


def test_every_alarm_is_marked_on_curves_that_the_page_has():
    assert set(alarms.MARKED) == {alarm.name for alarm in ALARMS}
    assert {name for names in alarms.MARKED.values() for name in names} <= set(curves.METRICS)


def test_alarms_are_counted_by_arm_with_the_median_update_at_which_they_sounded():
    """Of four runs of arm a two rise beyond the threshold of KL, from update 3 and 5 on: it sounds at the fifth such update."""
    rows = []
    for run, start in (("s/a/seed=0", 3), ("s/a/seed=1", 5), ("s/a/seed=2", 99), ("s/b/seed=0", 99)):
        for update in range(1, 11):
            far = update >= start
            monitors = {"monitor/kl_to_sft": 10.0 * far, "monitor/response_length": 10.0, "monitor/entropy": 1.0}
            rows.append({"run": run, "update": update, **monitors})
    runs = pd.DataFrame({"run": [f"s/a/seed={n}" for n in range(3)] + ["s/b/seed=0"], "arm": ["a", "a", "a", "b"]})
    found = alarms.alarm_data(runs, pd.DataFrame(rows), ["b", "a"])
    assert found["sounded"] == [{"kl": 7}, {"kl": 9}, {}, {}]
    assert [arm["sounded"]["kl"] for arm in found["arms"]] == [[0, None], [2, 8.0]]
    assert [(arm["runs"], arm["able"], arm["collapsed"]) for arm in found["arms"]] == [(1, 1, [0, None]), (3, 3, [0, None])]


def test_the_tables_of_settings_and_alarms_stand_in_the_html(text):
    body = text[text.index('<table id="settings-table"') :]
    body = body[: body.index("</table>")]
    assert body.count("<tr") == 3 and body.count("≠ ") == 1 and ">kl_penalty<" in body and "gae_lambda" not in body
    assert "how to read this" in text.lower() and text.count('class="how"') == text.count("<section")


def test_gold_by_a_reward_model_is_named_so_and_its_threshold_is_no_figure_where_alarms_judge(tmp_path, text):
    judged = {"gold.path": "judge", "collapse.by": "alarms"}
    said = page_of(small_study(tmp_path, seeds=1, arms={"one": Arm(judged), "two": Arm(judged | {"ppo.gamma": 0.9})}))
    assert "the score of the reward model in gold.path" in said and "Figure 3." not in said
    assert "the true reward of held-out answers" in text and "Figure 3." in text


def test_a_study_of_one_arm_has_no_settings_that_differ(tmp_path):
    assert "The arms differ in no setting" in page_of(small_study(tmp_path, arms={"only": Arm()}, seeds=1))


def test_a_page_replaces_the_last_one_whole(tmp_path):
    out = tmp_path / "report.html"
    for content in ("first", "second – with more"):
        write_page(out, content)
        assert out.read_text(encoding="utf-8") == content
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_watching_rebuilds_when_a_run_has_changed_and_only_then(tmp_path, monkeypatch):
    folder = small_study(tmp_path, seeds=1)
    rebuilt, slept = [], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            with open(folder / "vanilla" / "seed=0" / "metrics.jsonl", "a") as metrics:
                metrics.write('{"update": 81}\n')
        if len(slept) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        watch(folder, lambda: rebuilt.append(len(slept)), marks(folder), seconds=5)
    assert rebuilt == [2] and slept == [5, 5, 5, 5]


def test_what_changes_while_the_first_page_is_built_is_not_missed(tmp_path, monkeypatch):
    folder, rebuilt = small_study(tmp_path, seeds=1), []
    before = marks(folder)
    with open(folder / "vanilla" / "seed=0" / "metrics.jsonl", "a") as metrics:
        metrics.write('{"update": 81}\n')

    def sleep(seconds: float) -> None:
        if rebuilt:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        watch(folder, lambda: rebuilt.append(1), before)
    assert rebuilt == [1]


def test_the_command_writes_the_page_beside_the_runs_and_says_its_size(tmp_path, capsys):
    folder = small_study(tmp_path, seeds=1)
    assert main([str(folder)]) == 0
    told = capsys.readouterr().out
    assert re.fullmatch(r".*report\.html: 2 runs, \d\.\d MB, \d+\.\d s\n", told)
    assert 'data-reload="0"' in (folder / "report.html").read_text(encoding="utf-8")
    assert main([str(folder), "--out", str(tmp_path / "other.html"), "--base", "kl_penalty"]) == 0
    assert (tmp_path / "other.html").exists()


def test_a_watched_page_reloads_itself_until_the_watch_ends(tmp_path, monkeypatch):
    folder = small_study(tmp_path, seeds=1)
    seen = []

    def interrupted(seconds: float) -> None:
        seen.append((folder / "report.html").read_text(encoding="utf-8"))
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    assert main([str(folder), "--watch"]) == 0
    assert 'data-reload="10"' in seen[0]
    assert 'data-reload="0"' in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("case", ["missing", "empty", "several", "base"])
def test_what_cannot_be_shown_is_refused_in_a_sentence(tmp_path, capsys, case):
    results = tmp_path / "results"
    if case != "missing":
        results.mkdir()
    if case in ("several", "base"):
        small_study(results, seeds=1, study="one")
    if case == "several":
        small_study(results, seeds=1, study="two")
    expected = {
        "missing": "is not a folder",
        "empty": "no run folder could be used",
        "several": "holds 2 studies",
        "base": "--base no: no such arm",
    }
    assert main([str(results), *(["--base", "no"] if case == "base" else [])]) == 1
    told = capsys.readouterr().err
    assert told.splitlines()[-1].startswith("error: ") and expected[case] in told and "Traceback" not in told
    assert not list(tmp_path.rglob("*.html"))


@pytest.mark.slow
def test_a_hundred_runs_are_a_page_in_twenty_seconds_and_eight_megabytes(tmp_path):
    noise = np.random.default_rng(0)
    arms = {f"arm {index}": Arm({"ppo.kl_coef": 0.01 * index}, collapse_probability=index % 3 / 2) for index in range(20)}
    extra = {name: float(noise.normal()) for name in curves.METRICS if not name.startswith("eval/")}
    folder = write_study(tmp_path, arms, 5, noise, config=override(CONFIG, {"ppo.updates": 150}), extra=extra)
    for path in folder.glob("*/seed=*/metrics.jsonl"):  # constants would be short
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row | {name: float(noise.normal()) for name in extra}) + "\n" for row in rows))
    started = time.process_time()
    text = page_of(folder)
    assert time.process_time() - started < 20 and len(text.encode()) < 8e6


@pytest.mark.parametrize(("seeds", "models", "told"), [
    ([0, 1], [0, 0], "sweep=vanilla 'seed=range(2)'"), ([0, 1], [0, 1], "sweep=vanilla 'seed=range(2)'"),
    ([0, 0], [0, 7], "sweep=vanilla pipeline_seed=0,7 'seed=range(1)'"), ([2, 5], [0, 0], "sweep=vanilla seed=2,5"),
])  # fmt: skip
def test_the_command_of_the_head_draws_reward_models_only_where_the_study_does_not_itself(seeds, models, told):
    runs = pd.DataFrame({"seed": seeds, "pipeline_seed": models})
    assert setup(runs, "vanilla")["command"] == f"python -m ablate.run -m {told}"
