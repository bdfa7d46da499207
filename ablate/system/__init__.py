"""What a run needs of the machine: processes, seeds, signals, time, memory, files. It knows nothing of PPO."""
