"""Is there an input near an example on which the two models disagree?"""
