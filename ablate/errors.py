"""Errors that are the user's to mend: one sentence that names the setting or file and the remedy."""


class UserError(Exception):
    """Shown without a traceback; the process exits with status 1."""


class Diverged(Exception):
    """A loss or score became non-finite; the run ends with status `diverged` and this reason."""
