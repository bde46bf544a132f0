"""Opens a pack and runs it: pages, loops without a device, and the session that drives them."""
