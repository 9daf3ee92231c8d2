"""How is a model from the user's own code filled from a file of tensors?"""
