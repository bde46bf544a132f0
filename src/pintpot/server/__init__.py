"""A pack over HTTP, as clients of OpenAI's interface expect it; an extra: `pip install pintpot[serve]`."""
