"""The stages before PPO: pretrain → SFT → preference pairs → reward model. Each writes one folder, which is cached by content."""
