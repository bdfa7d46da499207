"""Figures 4, 6 to 9 and 14 to 19, and a figure of two perplexities: curves of arms over PPO updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.figures.estimate import GOLD, KL, LENGTH, PERPLEXITY, PROXY, WIN, Drawn, Frames, Panel, panel, trajectories
from analysis.figures.panels import MAX_LABELLED, draw_panels
from analysis.figures.style import arm_order, bands, basis, collapse_is, gold_levels_are, gold_source

POLICY_LOSS = panel("ppo/policy_loss")
VALUE_LOSS = panel("ppo/value_loss", "sqrt")
ENTROPY = panel("monitor/entropy", unit=True)
TRUE_PERPLEXITY = PERPLEXITY._replace(title="True perplexity of the responses")
PERPLEXITY_MOSS = panel("monitor/perplexity_moss")
ADVANTAGE_SD = panel("ppo/advantage_std")
EXPLAINED = panel("ppo/explained_variance")
GRAD_NORM = panel("ppo/grad_norm", "sqrt")
APPROX_KL = panel("ppo/approx_kl", unit=True)
SIX = (PROXY, GOLD, WIN, KL, PERPLEXITY, LENGTH)


def draw(frames: Frames, lead: str, panels: Sequence[Panel] = SIX, *, columns: int = 2,
         groups: Mapping[str, Sequence[str]] | None = None) -> Drawn:  # fmt: skip
    """Draw `panels` with all arms of `frames`. lead: how the caption begins. groups: title → arms, with one column of panels per group.

    The table has the columns `analysis.figures.estimate.COLUMNS`.
    """
    arms = arm_order(frames.runs)
    many = len(arms) > MAX_LABELLED
    table = trajectories(frames, panels, groups or {"": arms}, many=many)
    logged = set(table["panel"])
    absent = [panel.title for panel in panels if panel.title not in logged]
    rooted = [panel.title.split(" (")[0] for panel in panels if panel.scale == "sqrt" and panel.title in logged]
    caption = " ".join(filter(None, [
        lead, basis(frames.runs), bands(frames.runs, table),
        gold_source(frames.runs) if logged & {GOLD.title, WIN.title} else "",
        gold_levels_are(table) if GOLD.title in logged else "",
        collapse_is(frames.runs) if GOLD.title in logged else "",
        f"Square-root scale, and bands cut at 0: {', '.join(rooted)}." if rooted else "",
        f"Not logged by these runs: {'; '.join(absent)}." if absent else "",
    ]))  # fmt: skip
    scales = {panel.title: panel.scale for panel in panels}
    return Drawn(draw_panels(table, arms, caption, columns=len(groups) if groups else columns, scales=scales), table)


def fig04(frames: Frames) -> Drawn:
    """Vanilla PPO: proxy, gold, win rate, losses and the monitors of the responses."""
    lead = "Figure 4. Vanilla PPO, whose policy nothing constrains: rewards, win rate, losses and monitors of the responses."
    return draw(frames, lead, (PROXY, GOLD, WIN, POLICY_LOSS, VALUE_LOSS, KL, LENGTH, PERPLEXITY, PERPLEXITY_MOSS), columns=3)


def fig06(frames: Frames) -> Drawn:
    """Reward scaling, reward normalisation with a clip δ, and clipped advantages, each added to vanilla PPO."""
    return draw(frames, "Figure 6. Scaling, normalising and clipping rewards and advantages: each added to vanilla PPO.")


def fig07(frames: Frames) -> Drawn:
    """Constraints on the policy, each added to vanilla PPO: KL penalty, entropy bonus, importance sampling, KL penalty with the latter."""
    return draw(frames, "Figure 7. Constraints on the policy, each added to vanilla PPO.")


def fig08(frames: Frames) -> Drawn:
    """What policy and critic start from, changed on PPO-max and on vanilla PPO."""
    arms = arm_order(frames.runs)
    vanilla = [arm for arm in arms if arm.startswith("vanilla")]
    others = [arm for arm in arms if arm not in vanilla]
    groups = {"PPO-max": others, "Vanilla": vanilla} if vanilla and others else None
    lead = f"Figure 8. What policy and critic start from{', changed on PPO-max (left) and on vanilla PPO (right)' if groups else ''}."
    return draw(frames, lead, (PROXY, GOLD, KL, VALUE_LOSS, EXPLAINED), groups=groups)


def fig09(frames: Frames) -> Drawn:
    """PPO-max in a long training."""
    return draw(frames, "Figure 9. PPO-max in a long training.", columns=3)


def fig14(frames: Frames) -> Drawn:
    """Operations on reward, advantage and value, used together on vanilla PPO."""
    lead = "Figure 14. Operations on reward, advantage and value together, on vanilla PPO (reward and advantage clips 0.8, value clip 0.2)."
    return draw(frames, lead, (PROXY, GOLD, WIN, KL, PERPLEXITY, VALUE_LOSS))


def fig15(frames: Frames) -> Drawn:
    """The weight η of the token-level KL penalty on vanilla PPO."""
    return draw(frames, "Figure 15. The weight of the token-level KL penalty on vanilla PPO.")


def fig16(frames: Frames) -> Drawn:
    """The entropy bonus on vanilla PPO, with and without a clip on the entropy."""
    lead = "Figure 16. An entropy bonus on vanilla PPO, with and without a clip on the entropy."
    return draw(frames, lead, (PROXY, GOLD, ENTROPY, KL, PERPLEXITY, LENGTH))


def fig17(frames: Frames) -> Drawn:
    """The surrogate without a clip on the ratio, with a wide clip, and with a KL penalty instead."""
    lead = "Figure 17. The surrogate without a clip on the ratio, with a wide clip, and with a KL penalty instead."
    return draw(frames, lead, (PROXY, GOLD, APPROX_KL, KL, PERPLEXITY, LENGTH))


def fig18(frames: Frames) -> Drawn:
    """Clipping of the global gradient norm."""
    return draw(frames, "Figure 18. Clipping the gradient norm.", (PROXY, GOLD, GRAD_NORM, KL, PERPLEXITY, LENGTH))


def fig19(frames: Frames) -> Drawn:
    """λ of generalised advantage estimation on vanilla PPO."""
    lead = "Figure 19. λ of generalised advantage estimation on vanilla PPO."
    return draw(frames, lead, (PROXY, GOLD, ADVANTAGE_SD, VALUE_LOSS, KL, LENGTH))


def perplexity(frames: Frames) -> Drawn:
    """Two perplexities of the same responses, the true one and that of MOSS-RLHF, with length and gold."""
    lead = (
        "Two perplexities of the same responses. True: exp(Σ NLL / Σ tokens) over response tokens. MOSS-RLHF's: "
        "exp(Σ mean NLL of prompt and response / Σ response tokens), which at equal NLL is lower for longer responses."
    )
    return draw(frames, lead, (TRUE_PERPLEXITY, PERPLEXITY_MOSS, LENGTH, GOLD))
