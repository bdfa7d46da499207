"""What the documents say of committed runs follows from the runs: the wording by verdict on planted studies, then the files themselves."""

import itertools
import json
import re
import shutil

import numpy as np
import pytest
from simulate import SFT_GOLD, Arm, write_study

from ablate.errors import UserError
from analysis.claims.judge import CANNOT_TELL, CONTRADICTED, SUPPORTED, Verdict
from analysis.claims.paper import PAPER_CLAIMS
from analysis.claims.study import study_verdicts
from analysis.estimate.overoptimisation import frontier_words
from analysis.load.packed import REFERENCE, is_set
from analysis.reference import findings, generated, headlines, world
from analysis.reference.__main__ import main
from analysis.reference.blocks import filled
from analysis.reference.estimates import DISAGREE, estimated, out_of_reach, overall
from analysis.reference.prose import between, listed, wrapped

DIES, HOLDS = {"collapse_probability": 1.0}, {"collapse_probability": 0.0}
KL, IS = {"ppo.kl_penalty": True}, {"ppo.importance_sampling": "reference"}
MODELS = 8


def added(kl: dict, sampling: dict, vanilla: dict = DIES) -> dict[str, Arm]:
    return {"vanilla": Arm({}, **vanilla), "kl_penalty": Arm(KL, **kl), "importance_sampling": Arm(IS, **sampling)}


def planted(root, reward_models=MODELS, **studies: dict[str, Arm]):
    for number, (name, arms) in enumerate(studies.items()):
        write_study(root, arms, 1, np.random.default_rng(number), reward_models=reward_models, study=name)
    return estimated(root)


@pytest.fixture(scope="module")
def clear(tmp_path_factory):
    """Eight reward models: vanilla always collapses, the penalty and importance sampling never let it, PPO-max needs its penalty."""
    best = {"ppo_max": Arm(KL), "no_kl_penalty": Arm({}, **DIES), "no_reward_norm": Arm({**KL, "ppo.reward_norm": True}, lift=0.2)}
    return planted(tmp_path_factory.mktemp("clear"), add_one_in=added(HOLDS, HOLDS), leave_one_out=best)


def test_the_findings_follow_supported_and_contradicted_claims(clear):
    text = " ".join(headlines.findings(clear).split())
    assert "**A token-level KL penalty prevents collapse.** Vanilla PPO collapsed in 8 of 8 runs, with the penalty alone in 0 of 8" in text
    assert "**Importance sampling against SFT prevents collapse; the paper says that it does not.**" in text
    assert "The claim is contradicted in 1 study." in text
    assert "**2 of 2 tricks added alone to vanilla PPO lower its rate of collapse**" in text
    assert "`importance_sampling` (0 of 8) and `kl_penalty` (0 of 8). 0 of 8 still allows a rate of up to 37 %." in text
    assert "alone, 1 is needed against collapse**: `no_kl_penalty` (8 of 8), where PPO-max collapsed in 0 of 8." in text
    assert "All of it is over 8 reward models, which are the unit of every interval." in text


def test_studies_that_share_runs_are_not_told_as_independent_ones(tmp_path):
    """Of two studies with 40 runs between them vanilla's 8 are the same, so 16 runs stand in both; without that copy none does."""
    arms = {"vanilla": Arm({}, **DIES), "kl": Arm({**KL, "ppo.kl_coef": 0.05}, **HOLDS)}
    apart = " ".join(headlines.findings(planted(tmp_path, add_one_in=added(HOLDS, HOLDS), policy_constraints=arms)).split())
    assert "The claim is supported in 2 studies. - **" in apart
    for run in (tmp_path / "add_one_in").glob("vanilla/*"):
        shutil.copy(run / "metrics.jsonl", tmp_path / "policy_constraints" / "vanilla" / run.name)
        shutil.copy(run / "summary.json", tmp_path / "policy_constraints" / "vanilla" / run.name)
    shared = " ".join(headlines.findings(estimated(tmp_path)).split())
    assert "The claim is supported in 2 studies, which are not independent: 16 of their 40 runs stand in several." in shared


def test_that_collapses_hang_on_how_often_a_run_is_evaluated_is_said_of_runs_evaluated_twice_as_often(tmp_path):
    """The runs of no_kl are vanilla's, evaluated every 2 updates instead of 5; the first then holds, the others collapse 3 earlier."""
    arms = {"no_kl": Arm({"evaluation.every": 2}, **DIES), "kl_0.1": Arm({**KL, "evaluation.every": 2})}
    planted(tmp_path, add_one_in={"vanilla": Arm({"evaluation.every": 5}, **DIES), "kl_penalty": Arm(KL)}, kl_frontier=arms)
    assert "however often" not in findings.limits(estimated(tmp_path))
    for number, run in enumerate(sorted((tmp_path / "add_one_in").glob("vanilla/*"))):
        copied = tmp_path / "kl_frontier" / "no_kl" / run.name
        shutil.copy(run / "metrics.jsonl", copied)
        summary = json.loads((run / "summary.json").read_text())
        moved = {"collapsed": False, "collapse_update": None} if number == 0 else {"collapse_update": summary["collapse_update"] - 3}
        (copied / "summary.json").write_text(json.dumps(summary | moved))
    said = " ".join(findings.limits(estimated(tmp_path)).split())
    assert "of the same 8 runs 8 collapse when evaluated every 5 updates and 7 collapse when evaluated every 2; " in said
    assert "where a run does at both, the updates of the collapse are up to 3 apart." in said


def test_of_two_studies_that_add_the_penalty_the_one_over_more_reward_models_is_told(tmp_path):
    planted(tmp_path, add_one_in=added(HOLDS, HOLDS), reward_models=6)
    wider = {"vanilla": Arm({}, **DIES), "kl": Arm({**KL, "ppo.kl_coef": 0.05}, **HOLDS), "importance_sampling": Arm(IS, **HOLDS)}
    text = headlines.findings(planted(tmp_path, policy_constraints=wider))
    assert "Vanilla PPO collapsed in 8 of 8 runs, with the penalty alone in 0 of 8" in " ".join(text.split())
    assert "6 of 6 runs" not in text


def test_the_same_words_are_not_said_of_runs_that_show_the_opposite(tmp_path):
    text = " ".join(headlines.findings(planted(tmp_path, add_one_in=added(DIES, DIES))).split())
    assert "**Whether a token-level KL penalty prevents collapse cannot be told.**" in text
    assert "**Whether importance sampling against SFT prevents collapse cannot be told; the paper says that it does not.**" in text
    assert "**None of 2 tricks added alone to vanilla PPO is shown to lower its rate of collapse**" in text
    assert "Of 2 no difference is shown (collapsed in 8 of 8 runs)." in text
    assert "needed against collapse" not in text  # the study is not there


def test_tricks_that_the_correction_alone_leaves_undecided_are_told_apart_from_the_others(tmp_path):
    """Vanilla dies with each of 8 reward models and 8 tricks with none: p = 2 / 2⁸ = 0.0078 each, and 0.0625 after Holm. One trick dies."""
    held = [KL, IS, *({f"ppo.{name}": True} for name in ("kl_loss", "ptx", "policy_kl", "reward_norm", "reward_scaling", "value_clip"))]
    arms = {"vanilla": Arm({}, **DIES), "grad_clip": Arm({"ppo.grad_clip": True}, **DIES)}
    arms |= {f"held_{number}": Arm(settings, **HOLDS) for number, settings in enumerate(held)}
    text = " ".join(headlines.on_added(planted(tmp_path, add_one_in=arms)).split())
    assert "**None of 9 tricks added alone to vanilla PPO is shown to lower its rate of collapse**, after Holm's correction." in text
    assert "Without the correction it is lower with 8 arms (collapsed in 0 of 8 runs): p below 0.05 each." in text
    assert "higher" not in text


def test_a_trick_that_makes_collapse_more_frequent_is_said_to(tmp_path):
    text = " ".join(headlines.findings(planted(tmp_path, add_one_in=added(DIES, HOLDS, HOLDS))).split())
    assert "**A token-level KL penalty does not prevent collapse.**" in text
    assert "It is higher with `kl_penalty` (8 of 8)." in text


def test_arms_that_collapse_as_the_base_does_cost_the_others_nothing_in_the_correction(tmp_path):
    """Over 8 reward models p is at least 2 / 256, which 7 comparisons would make 0.055; only two arms can have it: 0.016."""
    others = {f"clip_{number}": Arm({"ppo.reward_clip": float(number)}, **DIES) for number in range(1, 6)}
    reference = planted(tmp_path, add_one_in=added(HOLDS, HOLDS) | others)
    study = reference.studies["add_one_in"]
    assert study.effect("kl_penalty", "collapsed")["p_holm"] == pytest.approx(2 * 2 / 256) and out_of_reach(study) is None
    text = " ".join(headlines.findings(reference).split())
    assert "**2 of 7 tricks added alone to vanilla PPO lower its rate of collapse**" in text


def test_where_no_rate_can_be_told_apart_it_is_said_with_what_could(tmp_path):
    reference = planted(tmp_path, reward_models=5, add_one_in=added(HOLDS, HOLDS))
    assert out_of_reach(reference.studies["add_one_in"]) == pytest.approx(2 / 32)
    text = " ".join(headlines.findings(reference).split())
    assert "**Which of 2 tricks added alone to vanilla PPO lower its rate of collapse cannot be told**" in text
    assert "over 5 reward models the exact test has no p below 0.062; 6 are the fewest that could tell." in text


def test_one_verdict_over_studies_is_that_of_those_that_decide():
    told = {name: Verdict(verdict, "") for name, verdict in zip("abc", (SUPPORTED, CANNOT_TELL, CONTRADICTED), strict=True)}
    assert overall({}) == CANNOT_TELL and overall({"b": told["b"]}) == CANNOT_TELL
    assert overall({"a": told["a"], "b": told["b"]}) == SUPPORTED and overall(told) == DISAGREE


def test_the_claims_that_the_findings_speak_of_exist():
    assert {headlines.KL_CLAIM, headlines.IS_CLAIM} <= {claim.text for claim in PAPER_CLAIMS}
    verdicts = {SUPPORTED, CONTRADICTED, CANNOT_TELL, DISAGREE}
    assert headlines.ON_KL.keys() == verdicts == headlines.ON_IS.keys()


def test_arms_stand_with_rates_differences_and_units_the_base_first(clear):
    table, _, below = findings.arms_of("add_one_in")(clear).partition("\n\n")
    rows = [line.split(" | ") for line in table.splitlines()]
    assert rows[0][2] == "rate against vanilla" and [row[0] for row in rows[2:]] == ["| vanilla", *(row[0] for row in rows[3:])]
    assert rows[2][1] == "8 of 8: 1.00 [0.63, 1.00]" and rows[3][2].startswith("−1.00 [−1.00, ")
    assert "8 reward models, one seed each per arm." in below and "is lower with `importance_sampling` and `kl_penalty`" in " ".join(
        below.split()
    )
    assert findings.arms_of("kl_frontier")(clear) == "The set has no study `kl_frontier` of several runs per arm."


def test_claims_stand_with_study_verdict_interval_and_what_would_decide(clear):
    text = findings.claims(clear)
    assert (
        "| a token-level KL penalty prevents collapse | Fig. 7 | add_one_in | supported | collapse rate 0.00 of kl_penalty against" in text
    )
    open_ones = text.partition("what would decide each:")[2]
    assert "| PPO-max stays stable: fewer than one run in four collapses |" not in text  # no arm has all of its tricks
    assert "| vanilla PPO collapses: proxy reward rises while gold falls |" not in open_ones.partition("Not judged")[0]


def test_one_seed_is_marked_and_decides_nothing(tmp_path):
    write_study(tmp_path, added(HOLDS, HOLDS), 1, np.random.default_rng(0), study="dapo")
    alone = estimated(tmp_path)
    assert alone.studies["dapo"].layout_only and alone.studies["dapo"].claims == [] and headlines.findings(alone) is None
    text = findings.one_seed(alone)
    assert text.startswith("**Layout only, one seed.**") and "| dapo | vanilla | yes | " in text and "| dapo | kl_penalty | no | " in text
    assert "| dapo | 3 | 3 | 1 seed, one reward model | 80 | layout only, one seed |" in findings.origin(alone)
    assert "*Anything of `dapo`.*" in findings.limits(alone)


def test_one_run_that_collapses_and_ends_above_sft_is_said_to_have_recovered(tmp_path):
    arms = {"vanilla": Arm({}, **DIES), "norm": Arm({"ppo.reward_norm": True}, **DIES)}
    write_study(tmp_path, arms, 1, np.random.default_rng(0), study="dapo")
    (changed,) = (tmp_path / "dapo/norm").glob("*/metrics.jsonl")
    *rows, last = changed.read_text().splitlines()
    changed.write_text("\n".join([*rows, json.dumps(json.loads(last) | {"eval/gold": SFT_GOLD + 0.01}), ""]))
    text = findings.one_seed(estimated(tmp_path))
    assert "| dapo | vanilla | yes | " in text and "| dapo | norm | yes, and recovered | +0.01 " in text


def test_what_the_frontier_says_is_counted_by_verdict(tmp_path):
    """Gao's form with one pair of coefficients for both arms: no difference at equal KL."""
    arms = {"no_kl": Arm({}, frontier=(1.0, 0.3), reach=2.0), "kl_0.1": Arm(KL, frontier=(1.0, 0.3), reach=1.8)}
    reference = planted(tmp_path, kl_frontier=arms)
    row = reference.studies["kl_frontier"].frontier.iloc[0]
    words = frontier_words(row["verdict"], row["at_end"], row["at_end_p"])
    assert f"| kl_0.1 | {words} | " in findings.frontier(reference)
    told = headlines.on_frontier(reference)
    assert told.startswith(
        f"**Does the KL penalty do more than stop earlier?** Gold at equal KL, against no penalty, with 1 coefficient: {words}."
    )
    ends = between(row["at_end"], row["at_end_low"], row["at_end_high"], sign=True)
    assert f"`kl_0.1` ends with {ends} more than vanilla PPO had at that KL" in told


WORLD = {
    "vanilla": Arm({}, **DIES), "kl": Arm(KL, kl_speed=0.06),
    "ppo_max": Arm({**KL, "ppo.reward_norm": True}, kl_speed=0.06), "ppo_max_without_kl": Arm({"ppo.reward_norm": True}, **DIES),
    "rm_fewer_pairs": Arm({**KL, "ppo.reward_norm": True, "preferences.pairs": 250}, lift=0.5),
    "rm_noisier_pairs": Arm({**KL, "ppo.reward_norm": True, "preferences.noise": 4}, lift=0.3),
}  # fmt: skip


def with_what_the_world_check_reads(root, study="world_check") -> None:
    """Add the reward models' accuracy, held-out scores at both ends and the metrics at the end to planted runs."""
    for folder in root.glob(f"{study}/*/*"):
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        rows = [row | {"eval/perplexity": 2.0, "eval/length": 20.0} for row in rows]
        summary = json.loads((folder / "summary.json").read_text())
        summary["final"] = {name: value for name, value in rows[-1].items() if name.startswith("eval/")}
        (folder / "summary.json").write_text(json.dumps(summary))
        (folder / "reward_model").mkdir()
        accuracy = {"rm_fewer_pairs": 0.6, "rm_noisier_pairs": 0.55}.get(folder.parent.name, 0.75)
        (folder / "reward_model" / "report.json").write_text(json.dumps({"held_out_accuracy": accuracy}))
        gold = {0: 0.0, rows[-1]["update"]: rows[-1]["eval/gold"] - SFT_GOLD}
        scores = [
            {"update": update, "prompt": prompt, "proxy": float(prompt), "gold": value + 0.01 * prompt * (update > 0)}
            for update, value in gold.items()
            for prompt in range(4)
        ]
        (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scores))


def test_the_world_stands_with_the_verdict_on_every_point(tmp_path):
    write_study(tmp_path, WORLD, 1, np.random.default_rng(1), reward_models=6, study="world_check")
    with_what_the_world_check_reads(tmp_path)
    reference = estimated(tmp_path)
    text = world.world(reference)
    assert "6 reward models, one seed each per arm." in text and "(../collapse.png)" in text and "SFT has +0.90." in text
    assert "\npython -m ablate.run -m sweep=world_check 'seed=range(6)' && python -m analysis.world_check" in text
    assert "| PPO-max holds in at least 95 % of runs | 6 of 6 [" in text and "| rm_noisier_pairs | 6 | " in text
    verdicts = re.search(r"Points: (.*)\.\n", text)[1].split(", ")
    told = world.world_held(reference)
    passed = [verdict for verdict in verdicts if verdict.endswith("pass")]
    assert len(verdicts) == 6 and told.startswith(f"{len(passed)} of 6 points pass, over 6 reward models.")
    assert all(f"{verdict[0]} ({verdict[2:]})" in told for verdict in verdicts if verdict not in passed)
    table = generated.tables(reference)["docs/collapse.csv"]
    assert set(table["arm"]) == {"vanilla", "kl", "ppo_max", "ppo_max_without_kl"} and table["reward_model"].nunique() == 6
    generated.draw(reference, tmp_path / "collapse.png")
    assert (tmp_path / "collapse.png").read_bytes().startswith(b"\x89PNG")


def test_the_unbiased_world_has_its_own_table_and_neither_stands_without_its_runs(tmp_path):
    write_study(tmp_path, WORLD, 1, np.random.default_rng(1), reward_models=6, study="world_check_unbiased")
    with_what_the_world_check_reads(tmp_path, "world_check_unbiased")
    reference = estimated(tmp_path)
    text = world.world_unbiased(reference)
    assert "\npython -m ablate.run -m sweep=world_check_unbiased 'seed=range(6)'" in text
    assert " && python -m analysis.world_check results/world_check_unbiased\n" in text
    assert "| rm_noisier_pairs | 6 | " in text and "Points: " in text and "collapse.png" not in text
    assert world.world(reference) is None


def test_the_alarms_are_judged_on_every_different_run_of_the_studies_over_reward_models(clear, tmp_path):
    text = world.alarms(clear)
    assert "python -m analysis.alarms results/reference/add_one_in results/reference/leave_one_out\n" in text
    runs = clear.loaded.runs
    collapsed = int(runs["collapsed"].sum())
    assert f"{len(runs)} different runs over 8 reward models, of which {collapsed} collapsed:" in text
    assert re.search(rf"\| 2 of 5 \| \d+ of {collapsed}, .* of {len(runs) - collapsed}, ", text)
    write_study(tmp_path, {"vanilla": Arm({}, **DIES)}, 6, np.random.default_rng(0), reward_models=1, study="vanilla")
    assert world.alarms(estimated(tmp_path)) is None


def test_the_counts_of_collapses_stand_at_every_limit_and_an_arm_that_hardly_moves_is_named(tmp_path):
    """Planted collapses fall by 4 SDs and more, and no other run falls at all."""
    arms = {"vanilla": Arm({}, **DIES), "kl": Arm(KL, frontier=(1.0, 0.3), reach=0.5)}
    reference = planted(tmp_path, policy_constraints=arms)
    rows = findings.thresholds(reference).splitlines()
    assert rows[0] == "| study | arm | 0.5 SD | 1 SD | 1.5 SD | 2 SD |"
    assert "| policy_constraints | kl | 0 of 8 | 0 of 8 | 0 of 8 | 0 of 8 |" in rows
    assert "| policy_constraints | vanilla | 8 of 8 | 8 of 8 | " in "\n".join(rows)
    assert reference.studies["policy_constraints"].arms.loc["kl", "kl_high"] < 1
    below = " ".join(findings.arms_of("policy_constraints")(reference).split())
    assert "Held by hardly moving, within 1 nat of SFT: `kl`." in below
    assert "*How often vanilla PPO collapses, whatever one calls so.* 8 of 8 at 0.5 SD, 8 of 8 at 1 SD, " in findings.limits(reference)


def test_that_no_learning_rate_was_sought_per_trick_is_said_where_all_runs_share_one(tmp_path):
    rates = {"ppo.learning_rate": 5e-4, "ppo.critic_learning_rate": 1.5e-3}
    arms = {"vanilla": Arm(rates, **DIES), "kl": Arm({**KL, **rates})}
    said = " ".join(findings.limits(planted(tmp_path / "shared", policy_constraints=arms)).split())
    assert "a study has one amount per trick, and every run has 0.0005 for the policy and 0.0015 for the critic." in said
    arms["kl"] = Arm({**KL, **rates, "ppo.learning_rate": 1e-4})
    assert "learning rates" not in findings.limits(planted(tmp_path / "own", policy_constraints=arms))


def test_reward_models_drawn_in_two_worlds_are_counted_in_each_and_alarms_are_judged_in_the_default_one(tmp_path):
    """Six reward models with a length bias and five without, of the same pipeline seeds: eleven reward models, in two worlds."""
    biased, without = {"preferences.length_bias": 0.1}, {"preferences.length_bias": 0.0}
    planted(tmp_path, policy_constraints={"vanilla": Arm(biased, **DIES), "kl": Arm({**KL, **biased})}, reward_models=6)
    assert "The 6 reward models are draws of one pipeline: one language, one size of model." in findings.limits(estimated(tmp_path))
    one_world = world.alarms(estimated(tmp_path))
    unbiased = {"vanilla": Arm(without, **DIES), "kl": Arm({**KL, **without})}
    both = planted(tmp_path, world_check_unbiased=unbiased, reward_models=5)
    said = " ".join(findings.limits(both).split())
    assert "one pipeline, 6 with a length bias of 0.1 and 5 with a length bias of 0: one language, one size of model." in said
    assert world.alarms(both) == one_world


def test_an_arm_whose_trick_never_acted_is_named_in_the_documents_and_in_the_verdicts(tmp_path):
    """The runs of ratio_guard are vanilla's, file by file; those of policy_kl differ from them in one number of one run."""
    arms = {"vanilla": Arm({}, **DIES), "policy_kl": Arm({"ppo.policy_kl": True}), "ratio_guard": Arm({"ppo.ratio_guard": 1.2})}
    planted(tmp_path, add_one_in=arms)
    study = tmp_path / "add_one_in"
    for run in sorted(study.glob("vanilla/*")):
        for arm, name in itertools.product(("policy_kl", "ratio_guard"), ("metrics.jsonl", "summary.json")):
            shutil.copy(run / name, study / arm / run.name / name)
    changed = min((study / "policy_kl").glob("*/metrics.jsonl"))
    *rows, last = changed.read_text().splitlines()
    final = json.loads(last)
    changed.write_text("\n".join([*rows, json.dumps({**final, "eval/gold": final["eval/gold"] + 1e-4}), ""]))
    reference = estimated(tmp_path)
    below = " ".join(findings.arms_of("add_one_in")(reference).split())
    assert "Never acted, as each run is that of `vanilla` to the bit: `ratio_guard`." in below
    assert "Never acted: `ratio_guard`." in headlines.on_added(reference)
    remarks = study_verdicts(reference.loaded, "add_one_in", base="vanilla").remarks
    assert [one.partition(".")[0] for one in remarks if one.startswith("Never acted")] == ["Never acted: ratio_guard"]


def test_an_interval_of_gold_without_0_that_the_correction_does_not_pass_is_named(tmp_path):
    """Vanilla collapses with each of 5 reward models and the penalty with none: p is the rates', 2 / 2⁵, and gold's interval is above 0."""
    reference = planted(tmp_path, policy_constraints={"vanilla": Arm({}, **DIES), "kl": Arm(KL, **HOLDS)}, reward_models=5)
    gold = reference.studies["policy_constraints"].effect("kl", "gold")
    below = " ".join(findings.arms_of("policy_constraints")(reference).split())
    assert gold["low"] > 0 and gold["p_holm"] >= 0.05 and "which nothing corrects, leaves out 0 with `kl`:" in below


def test_the_figures_of_the_paper_are_drawn_from_policy_constraints_with_a_table_of_means(tmp_path):
    reference = planted(tmp_path, policy_constraints={"vanilla": Arm({}, **DIES), "kl": Arm(KL, **HOLDS)})
    table = generated.tables(reference)["docs/fig07.csv"]
    assert set(table["arm"].dropna()) == {"vanilla", "kl"} and set(table["kind"]) >= {"mean"} and "run" not in set(table["kind"])
    assert (table["update"] % 5 == 0).all() and set(generated.tables(reference)["docs/fig04.csv"]["arm"].dropna()) == {"vanilla"}
    generated.draw(reference, tmp_path / "fig04.png")
    assert (tmp_path / "fig04.png").read_bytes().startswith(b"\x89PNG")
    without = planted(tmp_path / "other", add_one_in=added(HOLDS, HOLDS))
    assert generated.tables(without)["docs/fig07.csv"] is None


def test_a_block_is_replaced_and_one_without_runs_keeps_what_it_has():
    text = "a\n<!-- reference: one -->\nold\n<!-- /reference -->\nb\n<!-- reference: two -->\nkept\n<!-- /reference -->\n"
    assert filled(text, {"one": "- new", "two": None}, "X.md") == text.replace("old", "- new")
    assert "-->\n\n| new |\n\n<!-- /" in filled(text, {"one": "| new |", "two": None}, "X.md")
    for broken in (text.replace("two", "three"), text.replace("<!-- /reference -->\nb", "b"), text + text):
        with pytest.raises(UserError, match=r"X\.md should have the blocks one, two"):
            filled(broken, {"one": "", "two": ""}, "X.md")


def test_no_line_begins_as_a_list_or_a_head_and_counts_and_intervals_stay_whole():
    text = "held " * 34 + "in 5 of 5. Then + is # no list - and +1.49 [1.35, 1.64] is whole"
    for width in range(20, 180):
        lines = wrapped(text, "  ", width).splitlines()
        assert " ".join(line.strip() for line in lines) == " ".join(text.split())
        assert not any(line.strip().startswith(("+ ", "- ", "# ", "5. ", "of 5", "[1.35", "1.64]")) for line in lines)
    assert between(-0.5, -1.0, 0.25, sign=True) == "−0.50 [−1.00, 0.25]" and between(np.nan, 0, 1) == "–"
    assert between(1.0, -np.inf, np.inf) == "1.00" and listed(["a", "b", "c"]) == "a, b and c"


needs_reference = pytest.mark.skipif(not is_set(REFERENCE), reason="results/reference is not in this checkout")


@pytest.fixture(scope="module")
def committed():
    return estimated(REFERENCE)


@needs_reference
def test_the_documents_say_what_the_committed_runs_do(committed):
    texts, _ = generated.documents(committed)
    assert "\n\n".join(generated.differences(texts)) == "", "python -m analysis.reference write makes the documents true again"


@needs_reference
def test_a_document_that_says_anything_else_is_shown_as_a_diff_and_written(committed, tmp_path, monkeypatch, capsys):
    made = [name for name, table in generated.tables(committed).items() if table is not None]
    for name in (*generated.BLOCKS, *made, "docs/explanation/tricks.md", "results/reference/README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(generated.ROOT / name, tmp_path / name)
    monkeypatch.setattr(generated, "ROOT", tmp_path)
    monkeypatch.setattr("analysis.reference.estimates.estimated", lambda folder: committed)
    assert main(["check"]) == 0 and "the documents say what the" in capsys.readouterr().out
    changed = tmp_path / "README.md"
    kept = changed.read_text()
    changed.write_text(kept.replace("collapsed in ", "collapsed (we think) in "))
    assert main(["check"]) == 1
    said = capsys.readouterr()
    assert "--- README.md\n+++ README.md, from the committed runs\n" in said.out and "\n-- **" in said.out
    assert (
        said.err.splitlines()[-1] == "error: the documents differ from the committed runs: python -m analysis.reference write rewrites them"
    )
    assert main(["write"]) == 0 and "written: README.md\n" in capsys.readouterr().out
    assert changed.read_text() == kept
