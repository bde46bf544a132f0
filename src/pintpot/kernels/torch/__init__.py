"""PyTorch: records what a module computes, and replays it over our memory. Imported by whoever has a module only."""
