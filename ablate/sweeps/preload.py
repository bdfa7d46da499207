"""What the forkserver imports, so that every run of a sweep begins with it."""

from ablate.system.gc_pause import gc_paused

with gc_paused():
    import hydra  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    # What `ablate.run` imports, and not itself: each process forked from here executes it, and Python warns of a program imported before.
    import ablate.runs.fork
    import ablate.session
    import ablate.settings.overrides
    import ablate.sweeps.expand
    import ablate.sweeps.pool
    import ablate.sweeps.study
    import ablate.sweeps.summary  # noqa: F401
