"""The emotion scorer: texts become emotion features and GoEmotions probabilities.

Knows nothing of candidates, stages or stores; imports no torch.
"""
