"""What is known of a model that is not at hand, from an observation that was written to a file?"""
