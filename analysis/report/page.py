"""Dict → page. The templates, the style and the scripts are files beside this one. The page loads no other file.

jinja2 fills the templates with autoescape on, so that names, prompts and answers stay text whatever they hold.

The charts are drawn by `charts.js` as SVG, not by plotly. That makes a page 4.8 MB smaller and needs no further package. One legend
acts on all panels at once, and light and dark differ in colours alone. The page's security policy forbids every script and style but
its own two, given by hash. plotly could not obey it, because it writes styles as it runs.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib import resources
from typing import Any

import jinja2

from ablate.runs.alarms import ALARMS
from analysis.estimate.units import MIN_SEEDS
from analysis.report import sentences, tables

SCRIPTS = ("charts.js", "panels.js", "answers.js", "tokens.js", "page.js")
MARKS = {"supported": "✓", "contradicted": "✗", "cannot tell": "?"}


def page(data: dict[str, Any], *, built: str, command: str = "", reload_seconds: int = 0, home: str = "") -> str:
    """The page as HTML text.

    Args:
        data: what `analysis.report.data.report_data` returns.
        built: the time at which the page is built, as text.
        command: the command that makes the page.
        reload_seconds: after so many seconds the open page reloads itself. 0: never.
        home: the address of the list of studies, "" without one.
    """
    style, script = _file("page.css"), "\n".join(_file(name) for name in SCRIPTS)
    policy = f"style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    return _templates().get_template("page.html").render(
        policy=f"default-src 'none'; img-src data:; {policy}", style=style, script=script, data=shown(data),
        reload=reload_seconds, study=data["study"], facts=_facts(data, built), base=data["base"], question=data["question"],
        answer=data["answer"], setup=sentences.setup(data), commands=[line for line in (data["setup"]["command"], command) if line],
        claims=data["claims"], arms=tables.arms(data), matched_table=tables.matched(data),
        changes=[(row["arm"], data["arms"][row["arm"]]) for row in data["answers"]], cautions=sentences.cautions(data),
        warnings=tables.warnings(data),
        fits=tables.fits(data), frontier=sentences.frontier(data), runs=tables.runs(data), collapse=_rule(data), seeds=_seeds(data),
        matched=_matched(data), start=_start(data), thinned=_thinned(data), settings=tables.settings(data), alarms=tables.alarms(data),
        gold=_gold(data), alarm_rules=data["alarms"]["alarms"], votes=data["alarms"]["votes"], home=home,
    )  # fmt: skip


def shown(data: dict[str, Any]) -> dict[str, Any]:
    """The part of `data` that the scripts draw. The rest stands in the HTML."""
    arms = [{name: arm[name] for name in ("arm", "change", "colour", "dash", "runs")} for arm in data["arms"]]
    runs = [{name: run[name] for name in ("arm", "draw", "event", "time", "status")} for run in data["runs"]["rows"]]
    rest = ("study", "base", "start", "lines", "curves", "effects", "factorial", "thresholds", "survival", "over", "texts", "tokens")
    return {
        "arms": arms,
        "runs": runs,
        "updates": data["facts"]["updates"],
        "bands": data["facts"]["units"] >= MIN_SEEDS,
        "time_unit": data["facts"]["time_unit"],
        "alarms": {name: data["alarms"][name] for name in ("alarms", "sounded")},
        **{name: data[name] for name in rest},
    }


@lru_cache
def _templates() -> jinja2.Environment:
    """The templates beside this file. `tojson` writes JSON that cannot end its script element. It raises ValueError on NaN."""
    environment = jinja2.Environment(loader=jinja2.PackageLoader("analysis.report", ""), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    environment.globals["MARKS"] = MARKS
    return environment


@lru_cache
def _file(name: str) -> str:
    return resources.files("analysis.report").joinpath(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _seeds(data: dict[str, Any]) -> str:
    low, high = data["facts"]["seeds"]
    return f"per arm {data['facts']['basis'] or f'{low} to {high} runs'}"


def _facts(data: dict[str, Any], built: str) -> str:
    facts = data["facts"]
    status = ", ".join(f"{count} {word}" for word, count in facts["status"].items())
    code = f"code {', '.join(facts['commits'])}" if facts["commits"] else "code unknown"
    return f"{facts['runs']} runs ({status}) · {facts['arms']} arms · {_seeds(data)} · {facts['updates']} updates · {code} · built {built}"


def _gold(data: dict[str, Any]) -> str:
    """What gold is, as a caption says it."""
    model = "the score of the reward model in gold.path, a second opinion and not the truth,"
    return model if data["facts"]["gold_model"] else "the true reward"


def _rule(data: dict[str, Any]) -> str:
    by_alarms = f"the update in which the second of {len(ALARMS)} alarms on monitors has sounded"
    if data["facts"]["alarms"] == data["facts"]["runs"]:
        return by_alarms
    if data["facts"]["alarms"]:
        return f"{by_alarms} in {data['facts']['alarms']} runs, and in the others by gold"
    if data["facts"]["rule"] is None:
        return "each run's own threshold and patience, which differ here"
    threshold, patience = data["facts"]["rule"]
    return f"the first of {patience:g} consecutive evaluations with mean gold below SFT's mean − {threshold:g} SD of SFT's gold"


def _matched(data: dict[str, Any]) -> str:
    return "" if data["facts"]["matched_kl"] is None else f" (here {data['facts']['matched_kl']:.2f} nats)"


def _start(data: dict[str, Any]) -> str:
    some, every = len(data["start"]), len(data["arms"])
    if some == every:
        return ""
    return f" At the start {some} of {every} arms are drawn: {data['base']} and those that differ from it; the legend turns on the others."


def _thinned(data: dict[str, Any]) -> str:
    return "" if data["curves"]["every"] == 1 else f" Of this large study one update in {data['curves']['every']} is shown."
