"""diffusers' own pipelines with stages of ours in the place of their networks."""
