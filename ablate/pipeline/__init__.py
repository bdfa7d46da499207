"""The stages before PPO: pretrain → SFT → preference pairs → reward model. Each writes a folder; folders are cached by content."""
