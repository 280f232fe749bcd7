"""A site of Channels 1.1.8 on this layer, served by Daphne 1.4.2 and worked for by its ``runworker``."""
