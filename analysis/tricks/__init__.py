"""What each trick is and does: equation, setting, code, source, and its effect in the committed runs."""
