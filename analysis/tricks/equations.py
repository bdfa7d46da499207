r"""The equation of every trick in LaTeX, as the docstring of its function has it in words and letters.

Symbols: R the reward model's score of a response, r_t the reward and A_t the advantage of token t, V_t the critic's value, \hat R_t the
return that it learns, π the policy, π_old the policy that sampled, π_ref the reference, ρ_t = π / π_old. What a setting says is named in
the text beside it.
"""

from __future__ import annotations


class Trick:
    """A section: its title, and its equation in one or more rows."""

    def __init__(self, title: str, *rows: str) -> None:
        self.title = title
        self.rows = rows

    @property
    def equation(self) -> str:
        """The rows as one display, each row from the left."""
        below = " \\\\\n".join(self.rows)
        return self.rows[0] if len(self.rows) == 1 else f"\\begin{{array}}{{l}}\n{below}\n\\end{{array}}"


# Part of the algorithm → setting → its section. A test holds that each switch and choice of PPOConfig is here or belongs to one that is.
TRICKS = {
    "Reward": {
        "kl_penalty": Trick(
            "Token-level KL penalty",
            r"r_t \leftarrow r_t - \eta\,k(d_t)",
            r"d_t = \log\pi(y_t) - \log\pi_{\mathrm{ref}}(y_t)",
            r"k_1 = d, \qquad k_2 = \tfrac{1}{2} d^2, \qquad k_3 = e^{-d} - 1 + d",
            r"\mathrm{full} = \sum\limits_v \pi(v)\,(\log\pi(v) - \log\pi_{\mathrm{ref}}(v))",
        ),
        "kl_adaptive": Trick(
            "Adaptive KL coefficient",
            r"e = \mathrm{clip}\left(\frac{\mathrm{KL}}{\mathrm{KL}_{\mathrm{target}}} - 1,\,-0.2,\,0.2\right)",
            r"\eta \leftarrow \eta\left(1 + \frac{e\,n}{\mathrm{horizon}}\right)",
        ),
        "chi2_penalty": Trick(
            "χ² penalty",
            r"r_t \leftarrow r_t - \lambda\left(\sum\limits_v \frac{\pi(v)^2}{\pi_{\mathrm{ref}}(v)} - 1\right)",
        ),
        "reward_scaling": Trick(
            "Reward scaling",
            r"R \leftarrow \frac{R}{\sigma(R)}",
        ),
        "reward_norm": Trick(
            "Reward normalisation",
            r"R \leftarrow \frac{R - \mu(R)}{\sigma(R)}",
        ),
        "reward_clip": Trick(
            "Reward clip",
            r"R \leftarrow \mathrm{clip}(R,\,-\delta,\,\delta)",
        ),
        "reward_shape": Trick(
            "Bounded reward",
            r"d_j = R - R_{\mathrm{ref},j}",
            r"\mathrm{log\_sigmoid}:\quad \log\sigma(\overline{d})",
            r"\mathrm{sigmoid}:\quad \frac{1}{k}\sum\limits_j \sigma(d_j)",
            r"\mathrm{tanh}:\quad \tanh(\overline{d})",
            r"\mathrm{minmax}:\quad \frac{R - R_{\min}}{R_{\max} - R_{\min}}",
        ),
        "ensemble_score": Trick(
            "Ensemble of reward models",
            r"z_i = \frac{R_i - \mu_i}{\sigma_i}",
            r"\mathrm{mean}:\quad \overline{z}",
            r"\mathrm{worst}:\quad \min\limits_i z_i",
            r"\mathrm{uncertainty}:\quad \overline{z} - \lambda\,\mathrm{var}_i\,z_i",
        ),
        "length_penalty": Trick(
            "Length penalty",
            r"\mathrm{linear}:\quad R - c\,l",
            r"\mathrm{overlong}:\quad R - c\;\mathrm{clip}\left(\frac{l - L_0}{L_{\max} - L_0},\,0,\,1\right)",
        ),
        "missing_eos_penalty": Trick(
            "Penalty on a missing end",
            r"\text{where no end was sampled:}",
            r"\mathrm{subtract}:\quad R - p",
            r"\mathrm{replace}:\quad -p",
        ),
        "bootstrap_truncated": Trick(
            "Bootstrapping truncated responses",
            r"\delta_{T-1} = -\eta\,\mathrm{KL}_{T-1} + \gamma\,V(s_T) - V(s_{T-1}) \qquad \text{where no end was sampled}",
        ),
        "reference_update": Trick(
            "Moving reference",
            r"\mathrm{ema}:\quad \theta_{\mathrm{ref}} \leftarrow \alpha\,\theta + (1 - \alpha)\,\theta_{\mathrm{ref}}",
            r"\mathrm{reset}:\quad \theta_{\mathrm{ref}} \leftarrow \theta",
        ),
    },
    "Advantage": {
        "gae_lambda": Trick(
            "Generalised advantage estimation",
            r"\delta_t = r_t + \gamma V_{t+1} - V_t",
            r"A_t = \delta_t + \gamma\lambda A_{t+1}",
            r"\hat R_t = A_t + V_t",
        ),
        "gae_lambda_critic": Trick(
            "A λ of the critic's own",
            r"\hat R_t = A_t^{\lambda_V} + V_t",
        ),
        "gae_length_adaptive": Trick(
            "A λ that grows with the length",
            r"\lambda_i = 1 - \frac{1}{\alpha\,l_i}",
        ),
        "advantage_norm": Trick(
            "Advantage whitening",
            r"A_t \leftarrow \frac{A_t - \mu(A)}{\sqrt{\mathrm{var}(A) + 10^{-8}}}",
        ),
        "advantage_clip": Trick(
            "Advantage clip",
            r"A_t \leftarrow \mathrm{clip}(A_t,\,-\delta,\,\delta)",
        ),
        "advantage_estimator": Trick(
            "Advantages without a critic",
            r"\mathrm{rloo}:\quad R_i - \frac{1}{k-1}\sum\limits_{j \neq i} R_j",
            r"\mathrm{grpo}:\quad \frac{R_i - \mu}{\sigma + 10^{-4}}",
            r"\mathrm{dr\_grpo}:\quad R_i - \mu",
            r"\mathrm{remax}:\quad R_i - R_{\mathrm{greedy}}",
            r"\mathrm{reinforce}:\quad \sum\limits_{t' \ge t} \gamma^{t'-t}\,r_{t'}\ \mathrm{, whitened}",
        ),
    },
    "Policy loss": {
        "ratio_clip": Trick(
            "Clipped surrogate",
            r"L_t = -\min\left(\rho_t A_t,\;\mathrm{clip}(\rho_t,\,1 - \epsilon,\,1 + \epsilon)\,A_t\right)",
        ),
        "clip_range_high": Trick(
            "Clip-higher",
            r"L_t = -\min\left(\rho_t A_t,\;\mathrm{clip}(\rho_t,\,1 - \epsilon,\,1 + \epsilon_{\mathrm{high}})\,A_t\right)",
        ),
        "dual_clip": Trick(
            "Dual clip",
            r"L_t \leftarrow \min(L_t,\;c\,|A_t|) \qquad \text{where}\ A_t < 0",
        ),
        "divergence_mask": Trick(
            "Mask by probabilities",
            r"D_t = \pi(y_t) - \pi_{\mathrm{old}}(y_t)",
            r"L_t \leftarrow 0 \quad \text{where}\ A_t > 0,\ D_t > \delta\quad \text{or}\ A_t < 0,\ D_t < -\delta",
        ),
        "importance_sampling": Trick(
            "Importance sampling against SFT",
            r"\mathrm{behaviour}:\quad \rho_t = \frac{\pi(y_t)}{\pi_{\mathrm{old}}(y_t)}",
            r"\mathrm{reference}:\quad \rho_t = \frac{\pi(y_t)}{\pi_{\mathrm{SFT}}(y_t)}",
        ),
        "policy_kl": Trick(
            "PPO-penalty",
            r"L \leftarrow L + \beta\,(\rho_t - 1 - \log\rho_t)",
        ),
        "kl_loss": Trick(
            "KL in the loss",
            r"L \leftarrow L + \beta\,k(d_t)",
            r"k_1 = d, \qquad k_2 = \tfrac{1}{2} d^2, \qquad k_3 = e^{-d} - 1 + d",
            r"\mathrm{full} = \sum\limits_v \pi(v)\,(\log\pi(v) - \log\pi_{\mathrm{ref}}(v))",
        ),
        "entropy_bonus": Trick(
            "Entropy bonus",
            r"L \leftarrow L - c\,H",
        ),
        "entropy_clip": Trick(
            "Clipped entropy bonus",
            r"\mathrm{min}:\quad \min(H,\,\delta)",
            r"\mathrm{moss}:\quad -|H - \delta|",
        ),
        "entropy_adaptive": Trick(
            "Adaptive entropy coefficient",
            r"c \leftarrow \max(c + \Delta,\,0)\ \ \text{where}\ H < H^{*}",
            r"c \leftarrow \max(c - \Delta,\,0)\ \ \text{where}\ H > H^{*}",
        ),
        "ptx": Trick(
            "Pretraining loss",
            r"L \leftarrow L + \lambda_{\mathrm{ptx}}\,\mathrm{NLL}(\text{pretraining text})",
        ),
        "loss_aggregation": Trick(
            "Over what the loss is a mean",
            r"\mathrm{token}:\quad \frac{1}{N}\sum\limits_{i,t} L_{it}",
            r"\mathrm{sequence}:\quad \frac{1}{R}\sum\limits_i \frac{1}{l_i}\sum\limits_t L_{it}",
            r"\mathrm{constant}:\quad \frac{1}{R\,L_{\max}}\sum\limits_{i,t} L_{it}",
        ),
        "overlong_filter": Trick(
            "Overlong filter",
            r"m_{it} \leftarrow m_{it}\cdot\mathrm{ended}_i",
        ),
        "mismatch_correction": Trick(
            "Correction for another sampler",
            r"w_t = \frac{\pi_{\mathrm{old}}(y_t)}{\pi_{\mathrm{sampler}}(y_t)}",
            r"\overline{w} = \exp\left(\frac{1}{l}\sum\limits_t \log w_t\right)",
            r"\mathrm{tis}:\quad \min(w_t,\,b)\,L_t",
            r"\mathrm{icepop}:\quad [a \le w_t \le b]\,w_t L_t",
            r"\mathrm{sequence\_mask}:\quad [a \le \overline{w} \le b]\,L_t",
            r"\mathrm{bypass}:\quad \rho_t = \frac{\pi(y_t)}{\pi_{\mathrm{sampler}}(y_t)}",
        ),
    },
    "Critic": {
        "value_clip": Trick(
            "Clipped value loss",
            r"V_t^{\mathrm{clip}} = \mathrm{clip}(V_t,\,V_t^{\mathrm{old}} - \epsilon,\,V_t^{\mathrm{old}} + \epsilon)",
            r"\max\left((V_t - \hat R_t)^2,\;(V_t^{\mathrm{clip}} - \hat R_t)^2\right)",
        ),
        "value_norm": Trick(
            "PopArt",
            r"\frac{(V_t - \hat R_t)^2}{\sigma^2} = \left(v_t - \frac{\hat R_t - \mu}{\sigma}\right)^2",
            r"V = \mu + \sigma v",
        ),
        "critic_init": Trick(
            "Start of the critic",
            r"\theta_V \leftarrow \theta_{\mathrm{RM}} \quad\text{or}\quad \theta_{\mathrm{SFT}} \quad\text{or random}",
        ),
        "critic_pretrain": Trick(
            "Critic pre-training",
            r"\min\limits_{\theta_V}\,(V_t - \hat R_t)^2",
            r"\text{on rollouts of } \pi_{\mathrm{SFT}}",
        ),
    },
    "Optimisation": {
        "grad_clip": Trick(
            "Gradient clip",
            r"g \leftarrow g\,\min\left(1,\,\frac{g_{\max}}{\|g\|}\right)",
        ),
        "ratio_guard": Trick(
            "Guard on the ratio",
            r"\text{no step where}\quad \frac{1}{N}\sum\limits_t \rho_t > \tau",
        ),
        "target_kl": Trick(
            "Early end of an update",
            r"\text{stop where}\quad \mathrm{KL}(\pi_{\mathrm{old}}\|\pi) > 1.5\;\mathrm{KL}_{\mathrm{target}}",
        ),
        "policy_init": Trick(
            "Start of the policy",
            r"\theta \leftarrow \theta_{\mathrm{SFT}} \quad\text{or}\quad \theta_{\mathrm{pretrained}}",
        ),
        "lr_schedule": Trick(
            "Schedule of the learning rates",
            r"\mathrm{constant}:\quad 1",
            r"\mathrm{inverse\_sqrt}:\quad \sqrt{\frac{W}{s}}",
            r"\mathrm{linear}:\quad 1 - \frac{s - W}{N - W}",
        ),
    },
}
# Amounts that act with a trick though they do not need it: they are named in its section.
BESIDE = {"gamma": "gae_lambda", "ensemble_coef": "ensemble_score", "samples_per_prompt": "advantage_estimator", "value_coef": "value_clip",
          "warmup_ratio": "lr_schedule", "learning_rate": "lr_schedule", "critic_learning_rate": "lr_schedule"}  # fmt: skip
SIZES = (
    "updates", "batch_size", "minibatch_size", "micro_batch_size", "epochs", "adam_betas", "adam_eps", "critic_adam_eps",
)  # fmt: skip


def sections() -> dict[str, Trick]:
    """Setting → its section, in the order of the page."""
    return {name: trick for part in TRICKS.values() for name, trick in part.items()}
