"""How many tokens a video needs, and what they cost: latency and memory against the number of tokens."""
