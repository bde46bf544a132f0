"""The words that techniques, planner and runtimes share: form, step, slots."""
