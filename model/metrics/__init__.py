"""The paper's automatic metrics: BERTScore, EmotionScore, Dist-1, and intervals around them.

Knows nothing of systems, datasets, stages or stores; imports no torch.
"""
