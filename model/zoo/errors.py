"""The one error of the zoo.

Knows nothing of sources or models.
"""


class ZooError(ValueError):
    """Weights that cannot be had or are not what they should be; the message is one line with the way on."""
