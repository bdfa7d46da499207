"""What the forkserver imports, so that every run of a sweep begins with it.

The name starts with `_` so that Hydra's plugin scan passes over it.
"""

from ablate.garbage import none_collected

with none_collected():
    import transformers.models.llama.modeling_llama  # noqa: F401

    import ablate.run  # the program: each process forked from here executes it again
    import ablate.session  # noqa: F401
    import hydra_plugins._ablate_pool  # noqa: F401
