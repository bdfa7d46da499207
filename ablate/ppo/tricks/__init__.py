"""One pure function per trick. Plain numbers and tensors in, tensors out; `ablate.ppo.shaping` is the only reader of the toggles."""
