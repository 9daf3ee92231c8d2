"""The command `cp-compress`: compress, measure and compare models, and search for the smallest that still passes."""
