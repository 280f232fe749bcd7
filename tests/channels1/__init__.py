"""A site of Channels 1.1.8 on this layer, with Daphne 1.4.2 and the workers of ``runworker``."""
