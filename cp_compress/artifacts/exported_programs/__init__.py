"""How is a program of `torch.export` checked and run as a model?"""
