"""Short answers as sentences, captions in other words: written by any language model behind an address.

The paper had answers rephrased by GPT-3.5 and captions by GPT-4 (arXiv 2410.16267, training section) and does
not print its prompts; those in `prompts` are ours. `run` sends many requests at once, `cache` keeps every
reply the moment it comes, `replies` decides which of them may be trained on.
"""
