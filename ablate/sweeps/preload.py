"""The imports of the forkserver, which every process that it starts has already."""

from ablate.system.gc_pause import gc_paused

with gc_paused():
    import hydra  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    # The imports of `ablate.run`, but not that module: every child executes it as its program, and Python warns if it was imported before.
    import ablate.runs.fork
    import ablate.session
    import ablate.settings.overrides
    import ablate.sweeps.expand
    import ablate.sweeps.pool
    import ablate.sweeps.study
    import ablate.sweeps.summary  # noqa: F401
