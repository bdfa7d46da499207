"""The gradient of the KL to SFT: what each estimator gives, in the loss or in the reward, beside the exact one."""
