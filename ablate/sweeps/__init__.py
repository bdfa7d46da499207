"""Studies and the runs of a sweep: expansion, workers, tables. `python -m ablate.sweeps` lists the studies."""
