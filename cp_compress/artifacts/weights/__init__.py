"""How does a file of tensors fill a model that the user's own code makes?"""
