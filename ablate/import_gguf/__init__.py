"""A GGUF file as a Hugging Face folder: `python -m ablate.import_gguf`."""
