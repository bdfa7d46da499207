"""What a run needs from the machine: processes, seeds, signals, time, memory, files, locks. Nothing here depends on PPO."""
