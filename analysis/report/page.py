"""Dict → page. The template, the style and the scripts are files beside this one; the page loads nothing.

The charts are drawn by `charts.js` as SVG and not by plotly: a page is 4.8 MB smaller for it, its policy forbids every script
and style but its own two (by hash; plotly writes styles as it runs), one legend acts on all panels at once, light and dark
are only colours, and reading a report needs no further package.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import lru_cache
from html import escape
from importlib import resources
from typing import Any

from analysis.report import sentences, tables

SCRIPTS = ("charts.js", "panels.js", "page.js")


def page(data: dict[str, Any], *, built: str, reload_seconds: int = 0) -> str:
    """The whole page. `built`: when, as text. `reload_seconds`: the page loads itself again so often; 0: never."""
    style, script = _file("page.css"), "\n".join(_file(name) for name in SCRIPTS)
    policy = f"style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    filled = {
        "POLICY": f"default-src 'none'; img-src data:; {policy}", "STYLE": style, "SCRIPT": script, "DATA": as_json(shown(data)),
        "RELOAD": str(reload_seconds), "STUDY": escape(data["study"]), "FACTS": escape(_facts(data, built)), "BASE": escape(data["base"]),
        "LEAD": escape(sentences.lead(data)), "CLAIMS": sentences.claims(data), "ARMS": tables.arms(data),
        "CAUTIONS": sentences.cautions(data), "WARNINGS": tables.warnings(data), "FITS": tables.fits(data),
        "FRONTIER": sentences.frontier(data), "RUNS": tables.runs(data), "COLLAPSE": escape(_rule(data)), "SEEDS": escape(_seeds(data)),
        "MATCHED": _matched(data), "THINNED": _thinned(data),
    }  # fmt: skip
    # One pass over the template alone: nothing that was filled in is searched for places again.
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda place: filled[place[1]], _file("page.html"))


def shown(data: dict[str, Any]) -> dict[str, Any]:
    """What the scripts need of the data; the rest is in the tables already."""
    arms = [{name: arm[name] for name in ("arm", "change", "colour", "dash", "runs")} for arm in data["arms"]]
    runs = [{name: run[name] for name in ("arm", "seed", "event", "time", "status")} for run in data["runs"]["rows"]]
    rest = ("study", "base", "lines", "curves", "effects", "factorial", "thresholds", "survival", "over", "texts")
    return {"arms": arms, "runs": runs, "updates": data["facts"]["updates"], **{name: data[name] for name in rest}}


def as_json(value: Any) -> str:
    """JSON that cannot end its script element, whatever the strings hold."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


@lru_cache
def _file(name: str) -> str:
    return resources.files("analysis.report").joinpath(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _seeds(data: dict[str, Any]) -> str:
    low, high = data["facts"]["seeds"]
    return f"{low} seed{'s' if low > 1 else ''} an arm" if low == high else f"{low} to {high} seeds an arm"


def _facts(data: dict[str, Any], built: str) -> str:
    facts = data["facts"]
    status = ", ".join(f"{count} {word}" for word, count in facts["status"].items())
    code = f"code {', '.join(facts['commits'])}" if facts["commits"] else "code unknown"
    return f"{facts['runs']} runs ({status}) · {facts['arms']} arms · {_seeds(data)} · {facts['updates']} updates · {code} · built {built}"


def _rule(data: dict[str, Any]) -> str:
    if data["facts"]["rule"] is None:
        return "each run's own threshold and patience, which differ here"
    threshold, patience = data["facts"]["rule"]
    return f"the first of {patience:g} consecutive evaluations with mean gold below SFT's mean − {threshold:g} SD of SFT's gold"


def _matched(data: dict[str, Any]) -> str:
    return "" if data["facts"]["matched_kl"] is None else f" (here {data['facts']['matched_kl']:.2f} nats)"


def _thinned(data: dict[str, Any]) -> str:
    return "" if data["curves"]["every"] == 1 else f" Of this large study one update in {data['curves']['every']} is shown."
