"""A harness for PPO ablations in RLHF: every trick of PPO is an isolated toggle, judged by a gold reward."""

__version__ = "0.1.0"
