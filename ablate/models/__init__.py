"""Language models: loading, adapters, attention, and the forward passes over them."""
