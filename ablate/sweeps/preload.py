"""What the processes of a sweep share: the forkserver imports this module, and every process that it starts has its content already.

Besides imports these are results that come out the same in every run: the fingerprint of the code, the import statements that the keys of
stages follow, the table by which transformers renames weights, and the pairs of words that the gold reward knows. Nothing here starts a
thread, as a forked process would lack it.
"""

from ablate.system.gc_pause import gc_paused

with gc_paused():
    import hydra  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    # The imports of `ablate.run`, but not that module: every child executes it as its program, and Python warns if it was imported before.
    import ablate.runs.fork
    import ablate.session
    import ablate.settings.overrides
    import ablate.sweeps.expand
    import ablate.sweeps.pool
    import ablate.sweeps.study
    import ablate.sweeps.summary  # noqa: F401
    from ablate.runs.numerics import code_fingerprint
    from ablate.settings.identity import STAGES
    from ablate.system.closure import closure
    from ablate.world.grammar import grammar

    code_fingerprint()
    for stage in STAGES:
        closure(f"ablate.pipeline.{stage}")
    get_checkpoint_conversion_mapping("")
    _ = grammar("en").possible_pairs
