"""A pack becomes a file or folder that others read: GGUF in its own blocks, or safetensors in float."""
