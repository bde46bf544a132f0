"""Prompts whose answers are compared word by word: twenty beginnings, of which the first twelve tokens are taken."""

from __future__ import annotations

NUM_TOKENS = 12
PROMPTS = (
    "The capital of France is Paris, a city known for its museums and its river.",
    "Once upon a time, in a small village near the sea, there lived a fisherman who",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) +",
    "The three laws of motion were written down by Isaac Newton in the year 1687, and",
    "To bake bread you need flour, water, salt and yeast. First you mix the flour and",
    "In machine learning, a neural network is a model made of layers that each",
    "Dear Sir or Madam, I am writing to you because the kettle that I bought last",
    "Water boils at one hundred degrees Celsius at sea level, but on a high mountain it",
    "The history of the Roman Empire begins with the rise of Augustus, who after the",
    "SELECT name, age FROM people WHERE age > 30 ORDER BY name; This query returns",
    "Photosynthesis is the process by which green plants and some other organisms use",
    "My favourite season of the year is autumn, because the leaves turn red and the air",
    "There are eight planets in the solar system. The largest of them is Jupiter, which",
    "If a train leaves the station at noon and travels at sixty miles an hour, then by",
    "Music is the art of arranging sounds in time. Rhythm, melody and harmony are its",
    "The recipe for a good conversation is simple: listen first, ask questions, and then",
    "A computer program is a list of instructions that a processor carries out one after",
    "In the middle of the night the telephone rang, and nobody in the house dared to",
    "Bees are important because they carry pollen from flower to flower, and without them",
    "The best way to learn a new language is to speak it every day, even if you make",
)
