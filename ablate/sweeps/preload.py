"""What the forkserver imports, so that every run of a sweep begins with it.

The name starts with `_` so that Hydra's plugin scan passes over it.
"""

from ablate.system.gc_pause import none_collected

with none_collected():
    import hydra  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import ablate.runs.fork
    import ablate.session
    import ablate.settings.overrides
    import ablate.sweeps.__main__  # noqa: F401
    import ablate.sweeps.pool  # noqa: F401

    # What `ablate.run` imports, and not itself: each process forked from here executes it, and Python warns of a program imported before.
    import ablate.sweeps.summary
