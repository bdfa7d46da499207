"""Where prompts, demonstrations, corpora and judgements come from."""
