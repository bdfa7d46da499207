"""Values in nested lists and dicts, as wandb's specifications are."""


def found(tree, key):
    """Every value under `key`, anywhere in nested lists and dicts."""
    if isinstance(tree, list):
        return [value for entry in tree for value in found(entry, key)]
    if isinstance(tree, dict):
        return [value for name, entry in tree.items() for value in ([entry] if name == key else found(entry, key))]
    return []
