"""The embedded world: prompts, demonstrations and a pretraining corpus with a gold reward that is known exactly."""
