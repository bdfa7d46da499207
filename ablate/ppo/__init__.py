"""The PPO core. Read types, tricks, shaping, sampling, rollout, update and evaluate, in this order."""
